package servertest

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echoer answers each byte with itself.
func echoer(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				io.Copy(nc, nc)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, p *Proxy) net.Conn {
	nc, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	return nc
}

func ask(t *testing.T, nc net.Conn, question string) string {
	_, err := io.WriteString(nc, question)
	require.NoError(t, err)
	answer := make([]byte, len(question))
	_, err = io.ReadFull(nc, answer)
	require.NoError(t, err)
	return string(answer)
}

func TestProxy_Passes(t *testing.T) {
	p := NewProxy(t, echoer(t))
	nc := dial(t, p)
	require.Equal(t, "hello", ask(t, nc, "hello"))
	require.NoError(t, nc.(*net.TCPConn).CloseWrite())
	_, err := nc.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the end is passed on")
}

func TestProxy_DelaysSideBySide(t *testing.T) {
	p := NewProxy(t, echoer(t))
	nc := dial(t, p)
	const delay, questions = 100 * time.Millisecond, 50
	p.Delay(delay)
	began := time.Now()
	answers := bufio.NewReader(nc)
	for range questions {
		_, err := io.WriteString(nc, "q\n")
		require.NoError(t, err)
		time.Sleep(time.Millisecond) // so that they are apart
	}
	for range questions {
		_, err := answers.ReadString('\n')
		require.NoError(t, err)
	}
	took := time.Since(began)
	require.GreaterOrEqual(t, took, delay)
	require.Less(t, took, questions*delay/2, "they wait for each other")
}

func TestProxy_Refuses(t *testing.T) {
	p := NewProxy(t, echoer(t))
	nc := dial(t, p)
	require.Equal(t, "hello", ask(t, nc, "hello"))
	p.Refuse()
	_, err := nc.Read(make([]byte, 1))
	require.ErrorContains(t, err, "reset")
	_, err = net.Dial("tcp", p.Addr)
	require.ErrorContains(t, err, "refused")
	p.Pass()
	require.Equal(t, "hello", ask(t, dial(t, p), "hello"))
}

func TestProxy_DropsAndSendsAgain(t *testing.T) {
	p := NewProxy(t, echoer(t))
	nc := dial(t, p)
	require.Equal(t, "hello", ask(t, nc, "hello"))
	p.Drop()
	late := dial(t, p)
	for _, nc := range []net.Conn{nc, late} {
		_, err := io.WriteString(nc, "hello")
		require.NoError(t, err)
		require.NoError(t, nc.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err = nc.Read(make([]byte, 1))
		require.ErrorContains(t, err, "timeout")
		require.NoError(t, nc.SetReadDeadline(time.Now().Add(patience)))
	}
	p.Pass()
	for _, nc := range []net.Conn{nc, late} {
		b := make([]byte, 5)
		_, err := io.ReadFull(nc, b)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))
	}
}

func TestProxy_EndsWhileItDrops(t *testing.T) {
	t.Run("", func(t *testing.T) {
		p := NewProxy(t, echoer(t))
		ask(t, dial(t, p), "hello")
		p.Drop()
		dial(t, p)
	})
}

func TestProxy_Garbles(t *testing.T) {
	p := NewProxy(t, echoer(t))
	nc := dial(t, p)
	p.Garble()
	question := strings.Repeat("hello", 10)
	require.NotEqual(t, question, ask(t, nc, question))
	p.Pass()
	require.Equal(t, question, ask(t, nc, question))
}

func TestProxy_NoServer(t *testing.T) {
	p := NewProxy(t, FreeAddr(t))
	_, err := dial(t, p).Read(make([]byte, 1))
	require.Error(t, err)
}
