package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mailServer answers over crypto/tls after its answer to STARTTLS.
func mailServer(t *testing.T, s *site, greeting, startTLS string) (addr string) {
	pair, err := tls.X509KeyPair(s.cert, s.key)
	require.NoError(t, err)
	return localhost(t, scripted(t, func(nc net.Conn) {
		io.WriteString(nc, greeting)
		var encrypted bool
		lines := bufio.NewReader(nc)
		for {
			line, err := lines.ReadString('\n')
			switch {
			case err != nil:
				return
			case line == "STARTTLS\r\n":
				io.WriteString(nc, startTLS)
				nc = tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{pair}})
				lines.Reset(nc)
				encrypted = true
			case encrypted:
				io.WriteString(nc, "250-mail.example\r\n250 AUTH PLAIN\r\n")
			default:
				io.WriteString(nc, "250-mail.example\r\n250 STARTTLS\r\n")
			}
		}
	}))
}

func TestSMTP(t *testing.T) {
	const hello, ready = "220 mail.example\r\n", "220 go on\r\n"
	s := newSite(t)
	v, err := version(t, s, "smtp://"+mailServer(t, s, hello, ready))
	require.NoError(t, err)
	require.Equal(t, "mail.example\nAUTH PLAIN\n", v)

	for _, refused := range []struct{ greeting, startTLS, reason string }{
		{hello, "454 not now\r\n", "not now"},
		{"554 no\r\n", ready, "554"},
		{hello, ready + "250 injected\r\n", "plain text after"},
		{hello, "nonsense\r\n", "nonsense"},
		{"220-" + strings.Repeat("x", maxSMTP), ready, "EOF"},
	} {
		_, err := version(t, s, "smtp://"+mailServer(t, s, refused.greeting, refused.startTLS))
		require.ErrorContains(t, err, refused.reason)
	}
	_, port, err := net.SplitHostPort(mailServer(t, s, hello, ready))
	require.NoError(t, err)
	_, err = version(t, s, "smtp://127.0.0.1:"+port)
	requireHostnameError(t, err)
}
