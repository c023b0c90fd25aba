package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/libssl-go/libssl"
)

var showCommand = command{
	name:  "show",
	args:  "FILE|-",
	about: "print a session file in PEM or DER, without its secrets",
	long:  `openssl s_client -sess_out FILE writes such files. - means standard input.`,
	flags: show,
}

// maxSession is far larger than a session with a very large certificate.
const maxSession = 1 << 20

// shownSession is the output of -json. It has no secrets.
type shownSession struct {
	Version        string    `json:"version"`
	Cipher         string    `json:"cipher"`
	ID             string    `json:"id"`
	IDContext      string    `json:"id_context"`
	Time           time.Time `json:"time"`
	TimeoutSeconds int64     `json:"timeout_s"`
	Expires        time.Time `json:"expires"`
	ServerName     string    `json:"server_name"`
	ALPN           string    `json:"alpn"`
	Ticket         bool      `json:"ticket"`
	MaxEarlyData   uint32    `json:"max_early_data"`
	Resumable      bool      `json:"resumable"`
}

func show(fs *flag.FlagSet) action {
	asJSON := fs.Bool("json", false, "print JSON")
	return func(_ context.Context, std stdio, args []string) error {
		if err := wantArgs(args, 1, 1); err != nil {
			return err
		}
		s, err := readSession(args[0], std.in)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		defer s.Release()
		if !*asJSON {
			_, err := io.WriteString(std.out, s.Text())
			return err
		}
		return printJSON(std.out, shownSession{
			Version: versionName(s.Version()), Cipher: tls.CipherSuiteName(s.CipherSuite()),
			ID: s.ID().String(), IDContext: hex.EncodeToString(s.IDContext()),
			Time: s.Time().UTC(), TimeoutSeconds: int64(s.Timeout() / time.Second), Expires: s.Expires().UTC(),
			ServerName: s.ServerName(), ALPN: s.ALPN(), Ticket: s.HasTicket(), MaxEarlyData: s.MaxEarlyData(), Resumable: s.Resumable(),
		})
	}
}

func readSession(name string, stdin io.Reader) (*libssl.Session, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, errors.Unwrap(err) // the caller names the file
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxSession+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, errors.New("the file is empty")
	case len(data) > maxSession:
		return nil, errors.New("too large for a session")
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return libssl.ParseSessionPEM(data)
	}
	return libssl.ParseSession(data)
}
