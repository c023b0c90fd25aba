package rig

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPipe_CarriesBytesUntilClosed(t *testing.T) {
	p := NewPipe()
	for range 2 { // a pipe can be used again
		p.Reset()
		c, s := p.Client(), p.Server()
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		n, err := s.Write([]byte("this goes unread."))
		require.NoError(t, err)
		require.Equal(t, 17, n)
		_, err = c.Write([]byte("x"))
		require.Error(t, err)
	}
}

func TestPipe_DeadlineEndsAWait(t *testing.T) {
	c := NewPipe().Client()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	// The deadline is not sticky, and one in the past ends a wait that has begun.
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	time.AfterFunc(10*time.Millisecond, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestPipe_WriterWaitsForRoom(t *testing.T) {
	p := NewPipe()
	c := p.Client()
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := c.Write(make([]byte, pipeLimit))
	require.NoError(t, err)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = io.ReadFull(p.Server(), make([]byte, pipeLimit))
	require.NoError(t, err)
	require.NoError(t, c.SetWriteDeadline(time.Time{}))
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
}
