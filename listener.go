package libssl

import (
	"errors"
	"net"
)

// Listener makes server connections of what it accepts.
type Listener struct {
	net.Listener
	ctx *Context
}

// Listen listens on a network address, as net.Listen does. Accept returns a
// *Conn without having run its handshake.
func Listen(network, addr string, ctx *Context) (*Listener, error) {
	if ctx == nil {
		return nil, errors.New("libssl: listen: nil Context")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	return NewListener(l, ctx), nil
}

// NewListener makes a Listener over inner.
func NewListener(inner net.Listener, ctx *Context) *Listener {
	return &Listener{Listener: inner, ctx: ctx}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c, err := Server(nc, l.ctx)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}
