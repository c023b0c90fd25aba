package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/libssl-go/libssl"
)

const (
	handshakeTimeout = 10 * time.Second // of a client, including the TCP connect
	answerTimeout    = 3 * time.Second  // a server that does not speak HTTP may never answer
)

// clientFlags are the flags of the commands that connect to addresses.
type clientFlags struct {
	ca, serverName *string
	insecure       *bool
}

func addClientFlags(fs *flag.FlagSet) clientFlags {
	return clientFlags{
		ca:         fs.String("ca", "", "trust the CAs in this PEM `file` instead of the system CAs"),
		insecure:   fs.Bool("insecure", false, "do not verify the servers' certificates"),
		serverName: fs.String("servername", "", "`name` to ask for and verify (default: the host of each address)"),
	}
}

func (f clientFlags) check(addrs []string) error {
	if err := wantArgs(addrs, 1, -1); err != nil {
		return err
	}
	if *f.ca != "" && *f.insecure {
		return usagef("-ca and -insecure exclude each other")
	}
	for _, addr := range addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return usagef("%v", err)
		}
	}
	return nil
}

func (f clientFlags) newContext(version string) (*libssl.Context, error) {
	return newClientContext(*f.ca, *f.insecure, version)
}

// nameFor returns the server name for an address.
func nameFor(addr, serverName string) string {
	if serverName != "" {
		return serverName
	}
	host, _, _ := net.SplitHostPort(addr)
	return host
}

// visit is the result of one connection, as the client sees it.
type visit struct {
	Version, Cipher string
	Resumed         bool
	Took            time.Duration // the handshake alone
	Answer          answer        // zero unless the server is sslsess
	NoAnswer        error
	Session         *libssl.Session // to resume with; the caller must release it; nil if there is none
}

// call makes a connection to addr, offers the session unless it is nil, and sends
// one HTTP request, because TLS 1.3 tickets arrive with the answer. An error names addr.
func call(ctx context.Context, sslCtx *libssl.Context, addr, serverName string, offer *libssl.Session) (v visit, err error) {
	defer func() {
		if err != nil && !strings.Contains(err.Error(), addr) { // errors of the dialler often have it
			err = fmt.Errorf("%s: %w", addr, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout+answerTimeout)
	defer cancel()
	connecting, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(connecting, "tcp", addr)
	if err != nil {
		return visit{}, err
	}
	c, err := libssl.Client(nc, sslCtx, serverName)
	if err != nil {
		nc.Close()
		return visit{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	if offer != nil {
		// Offer a copy: a broken connection makes its session useless for others.
		s, err := offer.Dup()
		if err != nil {
			return visit{}, err
		}
		defer s.Release()
		if err := c.SetSession(s); err != nil {
			return visit{}, err
		}
	}

	begin := time.Now()
	if err := c.HandshakeContext(connecting); err != nil {
		return visit{}, err
	}
	v.Took = time.Since(begin)
	v.Resumed = c.SessionReused()
	state := c.ConnectionState()
	v.Version, v.Cipher = versionName(state.Version), tls.CipherSuiteName(state.CipherSuite)

	v.Answer, v.NoAnswer = ask(c, addr)
	session, err := c.Session()
	if err != nil {
		return visit{}, err
	}
	if session.Resumable() {
		v.Session = session
	} else {
		session.Release()
	}
	return v, nil
}

// ask sends a request and reads the answer to its end.
func ask(c net.Conn, host string) (answer, error) {
	c.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return answer{}, err
	}
	body, err := readAnswer(c)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if json.Unmarshal(body, &a) != nil {
		return answer{}, nil // not an sslsess server
	}
	return a, nil
}

func readAnswer(r io.Reader) ([]byte, error) {
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
