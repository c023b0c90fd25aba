package memcachestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/libssl-go/libssl/store"
)

const (
	maxLine = 2 << 10 // of an answer

	// A value of more than maxValue is no record. The client library gets an empty one instead. A value of more than maxSkipped breaks
	// the connection.
	maxValue   = store.MaxData + 256
	maxSkipped = 1 << 20
)

var errProtocol = errors.New("the server does not keep to the protocol")

// checkedConn is between the client library and the network, because the library allocates any length that the server announces,
// and reads values for as long as they come.
type checkedConn struct {
	net.Conn
	checked []byte // for Read to return
	line    []byte // that is not complete
	pass    int    // bytes of a value that are still to come
	skip    int    // bytes that are still to come and are passed over
	valued  bool   // the answer has its value
	err     error
}

func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &checkedConn{Conn: nc}, nil
}

func (c *checkedConn) Read(p []byte) (int, error) {
	for {
		if n := copy(p, c.checked); n > 0 {
			if c.checked = c.checked[n:]; len(c.checked) == 0 {
				c.checked = nil
			}
			return n, nil
		}
		if c.err != nil || len(p) == 0 {
			return 0, c.err
		}
		n, err := c.Conn.Read(p)
		if c.err = c.check(p[:n]); c.err != nil || err == nil {
			continue
		}
		var e net.Error
		if errors.As(err, &e) && e.Timeout() { // which a later deadline ends
			return 0, err
		}
		c.err = err
	}
}

// check takes bytes of the server.
func (c *checkedConn) check(b []byte) error {
	for len(b) > 0 {
		switch {
		case c.skip > 0:
			n := min(c.skip, len(b))
			b, c.skip = b[n:], c.skip-n
		case c.pass > 0:
			n := min(c.pass, len(b))
			c.checked = append(c.checked, b[:n]...)
			b, c.pass = b[n:], c.pass-n
		default:
			n := bytes.IndexByte(b, '\n') + 1
			if n == 0 {
				n = len(b)
			}
			if len(c.line)+n > maxLine {
				return fmt.Errorf("%w: a line of more than %d bytes", errProtocol, maxLine)
			}
			c.line = append(c.line, b[:n]...)
			if b = b[n:]; c.line[len(c.line)-1] == '\n' {
				if err := c.judge(); err != nil {
					return err
				}
				c.line = c.line[:0]
			}
		}
	}
	return nil
}

// judge takes a complete line.
func (c *checkedConn) judge() error {
	if !bytes.HasPrefix(c.line, []byte("VALUE ")) {
		c.valued = false
		c.checked = append(c.checked, c.line...)
		return nil
	}
	if c.valued {
		return fmt.Errorf("%w: more than one value", errProtocol)
	}
	c.valued = true
	fields := bytes.Fields(c.line) // VALUE, key, flags, size, and mostly the version
	if len(fields) < 4 {
		return fmt.Errorf("%w: a value without a length", errProtocol)
	}
	n, err := strconv.ParseUint(string(fields[3]), 10, 31)
	switch {
	case err != nil || n > maxSkipped:
		return fmt.Errorf("%w: a value of length %.20q", errProtocol, fields[3])
	case n > maxValue:
		fields[3] = []byte("0")
		c.skip = int(n) + len("\r\n")
		c.checked = append(append(c.checked, bytes.Join(fields, []byte(" "))...), "\r\n\r\n"...)
	default:
		c.pass = int(n) + len("\r\n")
		c.checked = append(c.checked, c.line...)
	}
	return nil
}
