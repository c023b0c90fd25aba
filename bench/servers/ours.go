package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
)

// child is this program as one of the servers in Go: child NAME ADDR CERT KEY. It serves until it is killed.
func child(name string, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("child %s needs ADDR CERT KEY", name)
	}
	listen := map[string]func(addr, cert, key string) (net.Listener, error){"libssl": listenLibssl, "crypto-tls": listenCrypto}[name]
	if listen == nil {
		return fmt.Errorf("there is no child %q", name)
	}
	l, err := listen(args[0], args[1], args[2])
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) }))
}

func listenLibssl(addr, cert, key string) (net.Listener, error) {
	ctx, err := libssl.NewServerContext(cert, key)
	if err != nil {
		return nil, err
	}
	if _, err := ctx.UseStore(memstore.New(memstore.Options{}), nil); err != nil {
		return nil, err
	}
	return libssl.Listen("tcp", addr, ctx)
}

func listenCrypto(addr, cert, key string) (net.Listener, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", addr, &tls.Config{Certificates: []tls.Certificate{pair}})
}
