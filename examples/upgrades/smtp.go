package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"

	"github.com/libssl-go/libssl"
)

// maxSMTP bounds what a server may send before TLS.
const maxSMTP = 64 << 10

// smtpOver connects to a mail server and turns to TLS (RFC 3207). The next command has to be EHLO. net/smtp cannot go on from
// there: it waits for a greeting, and trusts a *tls.Conn only.
func smtpOver(ctx context.Context, addr string, sslCtx *libssl.Context) (*textproto.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn, err := upgrade(ctx, nc, sslCtx, host, askSMTP)
	if err != nil {
		return nil, err
	}
	return textproto.NewConn(conn), nil
}

func askSMTP(nc net.Conn) error {
	r := bufio.NewReader(io.LimitReader(nc, maxSMTP))
	answers := textproto.NewReader(r)
	if _, _, err := answers.ReadResponse(220); err != nil {
		return err
	}
	for _, command := range []struct {
		text string
		code int
	}{{"EHLO localhost", 250}, {"STARTTLS", 220}} {
		if _, err := fmt.Fprintf(nc, "%s\r\n", command.text); err != nil {
			return err
		}
		if _, _, err := answers.ReadResponse(command.code); err != nil {
			return err
		}
	}
	if r.Buffered() > 0 {
		return errors.New("smtp: plain text after the answer to STARTTLS")
	}
	return nil
}

func smtpVersion(ctx context.Context, addr string, sslCtx *libssl.Context) (string, error) {
	c, err := smtpOver(ctx, addr, sslCtx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.PrintfLine("EHLO localhost"); err != nil {
		return "", err
	}
	_, message, err := c.ReadResponse(250)
	return message, err
}
