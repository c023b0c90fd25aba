package libssl

import (
	"context"
	"net"
)

// Dial connects to addr and runs the handshake. The server name is the host of
// addr.
func Dial(network, addr string, ctx *Context) (*Conn, error) {
	return DialContext(context.Background(), network, addr, ctx)
}

// DialContext is Dial, given up when ctx is done; once connected, ctx no longer
// matters.
func DialContext(ctx context.Context, network, addr string, sslCtx *Context) (*Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr // a path, of a unix socket
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c, err := Client(nc, sslCtx, host)
	if err != nil {
		nc.Close()
		return nil, err
	}
	if err := c.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
