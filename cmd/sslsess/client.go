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
	EarlyData       bool          // the server has accepted the request as early data
	Took            time.Duration // the handshake alone
	Answer          answer        // zero unless the server is sslsess
	NoAnswer        error
	Session         *libssl.Session // to resume with; the caller must release it; nil if there is none
}

// call makes a connection to addr, offers the session unless it is nil, and sends
// one HTTP request, because TLS 1.3 tickets arrive with the answer. An error names addr.
func call(ctx context.Context, sslCtx *libssl.Context, addr, serverName string, offer *libssl.Session) (visit, error) {
	return callWith(ctx, sslCtx, addr, serverName, offer, afterHandshake)
}

// sending is when a call sends its request.
type sending int

const (
	afterHandshake sending = iota
	asEarlyData            // and again after the handshake if the server refuses it; the offered session must allow it
)

func callWith(ctx context.Context, sslCtx *libssl.Context, addr, serverName string, offer *libssl.Session, when sending) (v visit, err error) {
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
	if when == asEarlyData {
		if _, err := c.WriteEarlyData(request(addr)); err != nil {
			return visit{}, err
		}
	}
	if err := c.HandshakeContext(connecting); err != nil {
		return visit{}, err
	}
	v.Took = time.Since(begin)
	v.EarlyData = c.EarlyDataAccepted()
	v.Resumed = c.SessionReused()
	state := c.ConnectionState()
	v.Version, v.Cipher = versionName(state.Version), tls.CipherSuiteName(state.CipherSuite)

	err = v.ask(c, addr)
	return v, err
}

// ask sends a request, unless the server has it as early data, and notes the answer and the session that comes with it.
func (v *visit) ask(c *libssl.Conn, host string) error {
	c.SetDeadline(time.Now().Add(answerTimeout))
	if !v.EarlyData {
		_, v.NoAnswer = c.Write(request(host))
	}
	if v.NoAnswer == nil {
		v.Answer, v.NoAnswer = readAnswer(c)
	}
	session, err := c.Session()
	if err != nil {
		return err
	}
	if session.Resumable() {
		v.Session = session
	} else {
		session.Release()
	}
	return nil
}

// request is a request that a server may see twice, as early data may come twice.
func request(host string) []byte {
	return fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
}

// readAnswer reads an answer to its end.
func readAnswer(r io.Reader) (answer, error) {
	body, err := readBody(r)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if json.Unmarshal(body, &a) != nil {
		return answer{}, nil // not an sslsess server
	}
	return a, nil
}

func readBody(r io.Reader) ([]byte, error) {
	resp, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
