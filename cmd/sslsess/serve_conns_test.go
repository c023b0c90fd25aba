package main

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

func TestServe_MaxConnsLetsOthersWait(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := f.serve("-max-conns", "2")
	client := f.client("any")
	first, second := f.dial(client, n.addr), f.dial(client, n.addr)

	for _, c := range []*libssl.Conn{first, second} { // which are served then, and keep their slots
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	for range 20 { // hold no slots
		silent, err := net.Dial("tcp", n.addr)
		require.NoError(t, err)
		defer silent.Close()
	}
	third := f.dial(client, n.addr) // its handshake needs no slot either
	_, err := io.WriteString(third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	third.SetDeadline(time.Now().Add(300 * time.Millisecond))
	var ne net.Error
	_, err = third.Read(make([]byte, 1))
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout(), "%v", err)

	require.NoError(t, first.Close())
	third.SetDeadline(time.Now().Add(patience))
	_, err = third.Read(make([]byte, 1))
	require.NoError(t, err)
}
