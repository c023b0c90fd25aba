package libssl_test

import (
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/libssl-go/libssl"
)

// An encrypted key, and a second certificate for clients that only know RSA.
func ExampleContext_UseCertificate() {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		log.Fatal(err)
	}
	ecdsa, err := libssl.LoadCertificate("ecdsa.pem", "ecdsa.key", &libssl.KeyOptions{
		Passphrase: func() ([]byte, error) { return []byte(os.Getenv("KEY_PASSPHRASE")), nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ecdsa.Close()
	rsa, err := libssl.LoadCertificate("rsa.p12", "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer rsa.Close()
	if err := ctx.UseCertificate(ecdsa, rsa); err != nil {
		log.Fatal(err)
	}
}

// A server that follows the files of an ACME client or of Kubernetes.
func ExampleContext_WatchCertificate() {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		log.Fatal(err)
	}
	stop, err := ctx.WatchCertificate("tls.crt", "tls.key", 10*time.Second, func(err error) { log.Print(err) })
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
}

// An OCSP response that is refreshed while the certificate is in use.
func ExampleCertificate_SetOCSPStaple() {
	cert, err := libssl.LoadCertificate("cert.pem", "key.pem", nil)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := cert.Leaf()
	if err != nil {
		log.Fatal(err)
	}
	for ; time.Now().Before(leaf.NotAfter); time.Sleep(time.Hour) {
		if der, err := askResponder(leaf); err == nil {
			cert.SetOCSPStaple(der)
		}
	}
}

func askResponder(leaf *x509.Certificate) ([]byte, error) {
	return nil, fmt.Errorf("no responder for %v", leaf.Subject)
}

// A Listener with limits of its own.
func ExampleListener() {
	ctx, err := libssl.NewServerContext("cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	l, err := libssl.Listen("tcp", ":8443", ctx)
	if err != nil {
		log.Fatal(err)
	}
	l.HandshakeTimeout = 5 * time.Second
	l.MaxHandshakes = 1000
	for {
		conn, err := l.Accept() // its handshake is complete
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprintln(conn, "hello")
		conn.Close()
	}
}
