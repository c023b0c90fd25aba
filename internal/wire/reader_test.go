package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// readConn is a net.Conn whose Reads are a function.
type readConn struct {
	net.Conn
	read func(p []byte) (int, error)
}

func (c readConn) Read(p []byte) (int, error) { return c.read(p) }

// socketPair returns both ends of a connection over a network of package net.
func socketPair(t *testing.T, network string) (near, far net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	far, err = net.Dial(network, l.Addr().String())
	require.NoError(t, err)
	near, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	limit := time.Now().Add(time.Minute) // a test that hangs fails
	require.NoError(t, errors.Join(near.SetDeadline(limit), far.SetDeadline(limit)))
	return near, far
}

// everyConn runs test over sockets, which are read by their descriptor, and over a net.Pipe.
func everyConn(t *testing.T, test func(t *testing.T, near, far net.Conn)) {
	for _, network := range []string{"tcp", "unix", "pipe"} {
		t.Run(network, func(t *testing.T) {
			near, far := net.Pipe()
			if network != "pipe" {
				near, far = socketPair(t, network)
			}
			test(t, near, far)
		})
	}
}

func TestReader_KeepsWhatIsNotTaken(t *testing.T) {
	everyConn(t, func(t *testing.T, near, far net.Conn) {
		var r Reader
		require.Nil(t, r.Pending())
		r.Taken(0)
		r.Discard()
		go far.Write([]byte("hello"))
		require.NoError(t, r.Fill(near))
		require.Equal(t, "hello", string(r.Pending()))
		r.Taken(2)
		require.Equal(t, "llo", string(r.Pending()))
		r.Taken(3)
		require.Nil(t, r.Pending())
		require.Nil(t, r.in, "an idle connection holds no buffer")
		go far.Write([]byte("again"))
		require.NoError(t, r.Fill(near))
		require.Equal(t, "again", string(r.Pending()))
		r.Discard()
		require.Nil(t, r.Pending())
		require.Nil(t, r.in)

		go far.Close()
		require.Equal(t, io.EOF, r.Fill(near))
		require.Equal(t, io.EOF, r.Fill(near))
		require.Nil(t, r.Pending())
	})
}

func TestReader_GoesOnAfterADeadline(t *testing.T) {
	everyConn(t, func(t *testing.T, near, far net.Conn) {
		var r Reader
		for range 2 {
			require.NoError(t, near.SetReadDeadline(time.Unix(1, 0)))
			err := r.Fill(near)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, err.(net.Error).Timeout())
			require.Nil(t, r.Pending())
			require.NoError(t, near.SetReadDeadline(time.Time{}))
			go far.Write([]byte("hello"))
			require.NoError(t, r.Fill(near))
			require.Equal(t, "hello", string(r.Pending()))
			r.Discard()
		}
		require.NoError(t, near.Close())
		err := r.Fill(near)
		require.True(t, errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe), "%v", err)
	})
}

func TestReader_ReadsMoreUnderLoadAndLessAfterwards(t *testing.T) {
	var asked, bring int
	nc := readConn{read: func(p []byte) (int, error) {
		asked = len(p)
		return min(bring, len(p)), nil
	}}
	var r Reader
	for i, tt := range []struct {
		asked Size
		bring int
	}{
		{Small, Small.Bytes() - 1},
		{Small, Bulk.Bytes()},
		{Record, Record.Bytes() - 1},
		{Record, 1}, // never below a record again
		{Record, Bulk.Bytes()},
		{Bulk, Bulk.Bytes()},
		{Bulk, Bulk.Bytes() / 4},
		{Bulk, Bulk.Bytes()/4 - 1},
		{Record, Bulk.Bytes()},
		{Bulk, 1},
		{Record, 1},
	} {
		bring = tt.bring
		require.NoError(t, r.Fill(nc))
		require.Equal(t, tt.asked.Bytes(), asked, "read %d", i)
		require.Len(t, r.Pending(), min(bring, asked))
		r.Discard()
	}
}

func TestReader_ReadsAStreamOfASocket(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			near, far := socketPair(t, network)
			want := bytes.Repeat([]byte("0123456789abcdef/"), 1<<18)
			go far.Write(want)
			var r Reader
			var got []byte
			var sizes [Bulk + 1]int
			for len(got) < len(want) {
				require.NoError(t, r.Fill(near))
				sizes[r.in.size]++
				got = append(got, r.Pending()...)
				r.Taken(len(r.Pending()))
			}
			require.True(t, bytes.Equal(want, got))
			require.Zero(t, sizes[Small])
			require.Positive(t, sizes[Record])
			require.Positive(t, sizes[Bulk], "under load")
			for range 2 {
				go far.Write([]byte{1})
				require.NoError(t, r.Fill(near))
				r.Discard()
			}
			require.Equal(t, Record, r.size, "and less afterwards")
		})
	}
}

// An idle socket is polled without a buffer: the reading function finds nothing and gives its buffer back.
func TestReader_WaitsForASocketWithoutABuffer(t *testing.T) {
	near, far := socketPair(t, "tcp")
	var r Reader
	require.True(t, r.useDescriptor(near))
	read := true
	require.NoError(t, r.raw.Control(func(fd uintptr) { read = r.rawRead(fd) }))
	require.False(t, read, "wait")
	require.Nil(t, r.in)
	filled := make(chan error)
	go func() { filled <- r.Fill(near) }()
	_, err := far.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, <-filled)
	require.Equal(t, "hello", string(r.Pending()))
}

func TestReader_DescribesASocketsError(t *testing.T) {
	near, far := socketPair(t, "tcp")
	require.NoError(t, far.(*net.TCPConn).SetLinger(0))
	require.NoError(t, far.Close()) // resets
	var r Reader
	err := r.Fill(near)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, net.OpError{Op: "read", Net: "tcp", Source: near.LocalAddr(), Addr: near.RemoteAddr(),
		Err: os.NewSyscallError("read", syscall.ECONNRESET)}, *op)
	require.Nil(t, r.Pending())
	require.Equal(t, io.EOF, r.Fill(near), "the error is told once, as by net")
}

// masked is a socket whose bytes mean something only through its own Read.
type masked struct{ *net.TCPConn }

func (m masked) Read(p []byte) (int, error) {
	n, err := m.TCPConn.Read(p)
	for i := range p[:n] {
		p[i] ^= 0x55
	}
	return n, err
}

func TestReader_KeepsToTheReadOfATypeThatEmbedsASocket(t *testing.T) {
	near, far := socketPair(t, "tcp")
	var r Reader
	go far.Write([]byte{'a' ^ 0x55, 'b' ^ 0x55})
	require.NoError(t, r.Fill(masked{near.(*net.TCPConn)}))
	require.Equal(t, "ab", string(r.Pending()))
}

func TestReader_ReadsNothingAHundredTimes(t *testing.T) {
	for _, tt := range []struct {
		empty int
		err   error
	}{{99, nil}, {100, io.ErrNoProgress}} {
		reads := 0
		nc := readConn{read: func(p []byte) (int, error) {
			if reads++; reads > tt.empty {
				return copy(p, "hello"), nil
			}
			return 0, nil
		}}
		var r Reader
		require.Equal(t, tt.err, r.Fill(nc))
		require.Equal(t, 100, reads)
		require.Equal(t, tt.err == nil, r.Pending() != nil)
		require.Equal(t, r.Pending() != nil, r.in != nil)
	}
}

func TestReader_ReadsWhatComesWithAnError(t *testing.T) {
	data, reads := []byte("last"), 0
	nc := readConn{read: func(p []byte) (int, error) {
		reads++
		n := copy(p, data)
		data = nil
		return n, io.ErrUnexpectedEOF
	}}
	var r Reader
	require.NoError(t, r.Fill(nc))
	require.Equal(t, "last", string(r.Pending()))
	r.Discard()
	require.Equal(t, io.ErrUnexpectedEOF, r.Fill(nc))
	require.Equal(t, 2, reads, "an error is not read past")
	require.Nil(t, r.Pending())

	nc.read = func([]byte) (int, error) { return -1, errors.New("odd") }
	require.EqualError(t, r.Fill(nc), "odd")
	require.Nil(t, r.Pending())
}

// Input that an Ahead has read, or is reading, comes first and in order. Then the Reader reads itself.
func TestReader_FollowsAnAhead(t *testing.T) {
	everyConn(t, func(t *testing.T, near, far net.Conn) {
		var r Reader
		ahead := NewAhead()
		ended := make(chan error, 1)
		go func() { ended <- ahead.Read(near) }()
		send := func(text string) {
			_, err := io.WriteString(far, text)
			require.NoError(t, err)
		}
		send("one")
		require.Eventually(t, func() bool { return len(ahead.got) == 1 }, time.Minute, time.Millisecond)
		r.Follow(ahead)
		r.FillArrived(near)
		require.Equal(t, "one", string(r.Pending()))
		r.Taken(3)
		r.FillArrived(near)
		require.Nil(t, r.Pending(), "the goroutine still reads")
		for _, text := range []string{"two", "three"} {
			sent := make(chan struct{})
			go func() { defer close(sent); send(text) }()
			require.NoError(t, r.Fill(near))
			require.Equal(t, text, string(r.Pending()))
			r.Taken(len(text))
			<-sent
		}
		require.NoError(t, <-ended)
	})
}

func TestAhead_EndsWithTheStreamOrWhenFull(t *testing.T) {
	everyConn(t, func(t *testing.T, near, far net.Conn) {
		ahead := NewAhead()
		go func() {
			io.WriteString(far, "x")
			far.Close()
		}()
		require.Equal(t, io.EOF, ahead.Read(near))
		var r Reader
		r.Follow(ahead)
		require.NoError(t, r.Fill(near))
		require.Equal(t, "x", string(r.Pending()))
		r.Taken(1)
		require.Equal(t, io.EOF, r.Fill(near))
	})
	endless := readConn{read: func(p []byte) (int, error) { return len(p), nil }}
	full := NewAhead()
	require.NoError(t, full.Read(endless))
	require.Len(t, full.got, maxAhead)
	silent := NewAhead()
	require.NoError(t, silent.Read(readConn{read: func([]byte) (int, error) { return 0, nil }}))
}
