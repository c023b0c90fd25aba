package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// output is a Source that tests add to.
type output struct {
	mu    sync.Mutex
	made  []string
	taken int
	onEnd func() // runs once when there is nothing to take, before TakeOutput says so
}

func (o *output) add(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.made = append(o.made, text)
}

func (o *output) TakeOutput() *Buffer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.taken == len(o.made) {
		if f := o.onEnd; f != nil {
			o.onEnd = nil
			o.mu.Unlock()
			f()
			o.mu.Lock()
		}
		return nil
	}
	b := Get(Small)
	b.Filled(copy(b.Room(), o.made[o.taken]))
	o.taken++
	return b
}

func (o *output) HasOutput() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taken < len(o.made)
}

// sink is a net.Conn that keeps what is written.
type sink struct {
	net.Conn
	mu      sync.Mutex
	text    strings.Builder
	writes  int
	writing atomic.Bool
	overlap atomic.Bool
	fail    func(p []byte) (int, error) // of the next Write
	hold    chan struct{}               // not nil: each Write announces itself and waits, both on hold
}

func (s *sink) Write(p []byte) (int, error) {
	if s.writing.Swap(true) {
		s.overlap.Store(true)
	}
	defer s.writing.Store(false)
	runtime.Gosched() // let others find the Writer busy
	if s.hold != nil {
		s.hold <- struct{}{}
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	n, err := len(p), error(nil)
	if f := s.fail; f != nil {
		s.fail = nil
		n, err = f(p)
	}
	s.text.Write(p[:n])
	return n, err
}

func (s *sink) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestWriter_SendsInTheOrderOfTheOutput(t *testing.T) {
	for name, flush := range map[string]func(*Writer, net.Conn, Source) error{
		"flush":             (*Writer).Flush,
		"flush unless busy": (*Writer).FlushUnlessBusy,
	} {
		t.Run(name, func(t *testing.T) {
			var w Writer
			var src output
			var nc sink
			var mu sync.Mutex
			var want strings.Builder
			var all sync.WaitGroup
			for g := range 8 {
				all.Go(func() {
					for i := range 200 {
						text := fmt.Sprintf("<%d:%d>", g, i)
						mu.Lock()
						src.add(text)
						want.WriteString(text)
						mu.Unlock()
						if err := flush(&w, &nc, &src); err != nil {
							t.Error(err)
						}
						if name == "flush" && !strings.Contains(nc.written(), text) {
							t.Error("Flush returned before its output was sent")
						}
					}
				})
			}
			all.Wait()
			require.Equal(t, want.String(), nc.written(), "nothing is left behind")
			require.False(t, nc.overlap.Load(), "one Write at a time")
			require.Nil(t, w.sending)
		})
	}
}

func TestWriter_SendsTheRestFirstAfterATimeout(t *testing.T) {
	for n := range 6 {
		t.Run(fmt.Sprintf("%d of 5 bytes", n), func(t *testing.T) {
			var w Writer
			var src output
			nc := sink{fail: func([]byte) (int, error) { return n, os.ErrDeadlineExceeded }}
			src.add("first")
			src.add("second")
			require.Equal(t, os.ErrDeadlineExceeded, w.Flush(&nc, &src))
			require.Equal(t, "first"[:n], nc.written())
			require.Equal(t, 1, src.taken)
			src.add("third")
			require.NoError(t, w.Flush(&nc, &src))
			require.Equal(t, "firstsecondthird", nc.written())
			writes := 4
			if n == 5 {
				writes = 3 // nothing was left of the first
			}
			require.Equal(t, writes, nc.writes)
		})
	}
}

func TestWriter_EndsWithAnErrorThatIsNoTimeout(t *testing.T) {
	errBroken := errors.New("broken")
	for name, flush := range map[string]func(*Writer, net.Conn, Source) error{
		"flush":             (*Writer).Flush,
		"flush unless busy": (*Writer).FlushUnlessBusy,
		"flush last": func(w *Writer, nc net.Conn, src Source) error {
			return w.FlushLast(nc, src, func() { t.Error("there is no use in making more") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			for n, err := range map[int]error{0: errBroken, 2: &net.OpError{Op: "write", Err: errBroken}, 5: errBroken} {
				var w Writer
				var src output
				nc := sink{fail: func([]byte) (int, error) { return n, err }}
				src.add("first")
				require.Equal(t, err, w.Flush(&nc, &src))
				src.add("second")
				require.Error(t, flush(&w, &nc, &src))
				require.Equal(t, err, w.Flush(&nc, &src), "the first error remains")
				require.Equal(t, "first"[:n], nc.written())
				require.Equal(t, 1, nc.writes)
			}
		})
	}
}

func TestFlushUnlessBusy_LeavesItsOutputToTheSender(t *testing.T) {
	var w Writer
	var src output
	nc := sink{hold: make(chan struct{})}
	src.add("first")
	flushed := make(chan error)
	go func() { flushed <- w.Flush(&nc, &src) }()
	<-nc.hold
	src.add("second")
	require.NoError(t, w.FlushUnlessBusy(&nc, &src))
	require.Empty(t, nc.written(), "it does not wait, nor overtake")
	nc.hold <- struct{}{} // the end of the first Write
	<-nc.hold
	nc.hold <- struct{}{}
	require.NoError(t, <-flushed)
	require.Equal(t, "firstsecond", nc.written())
}

// Output may also be left to a sender that has just seen that there is none.
func TestFlushUnlessBusy_LosesNothingAtTheSendersEnd(t *testing.T) {
	var w Writer
	var src output
	var nc sink
	src.add("first")
	src.onEnd = func() {
		src.add("second")
		require.NoError(t, w.FlushUnlessBusy(&nc, &src))
		require.Equal(t, "first", nc.written())
	}
	require.NoError(t, w.Flush(&nc, &src))
	require.Equal(t, "firstsecond", nc.written())
}

func TestFlushUnlessBusy_SendsItselfOtherwise(t *testing.T) {
	var w Writer
	var src output
	var nc sink
	src.add("first")
	require.NoError(t, w.FlushUnlessBusy(&nc, &src))
	require.Equal(t, "first", nc.written())
	nc.fail = func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
	src.add("second")
	require.Equal(t, os.ErrDeadlineExceeded, w.FlushUnlessBusy(&nc, &src))
	require.NoError(t, w.FlushUnlessBusy(&nc, &src))
	require.Equal(t, "firstsecond", nc.written())
}

func TestFlushLast_SendsWhatItMakesBehindTheRest(t *testing.T) {
	var w Writer
	var src output
	nc := sink{hold: make(chan struct{})}
	src.add("first")
	flushed, last := make(chan error), make(chan error)
	go func() { flushed <- w.Flush(&nc, &src) }()
	<-nc.hold
	go func() {
		last <- w.FlushLast(&nc, &src, func() {
			if nc.written() != "first" || w.mu.TryLock() {
				t.Error("it does not wait for the sender")
			}
			src.add("last")
		})
	}()
	nc.hold <- struct{}{} // the end of the first Write
	<-nc.hold
	nc.hold <- struct{}{}
	require.NoError(t, <-flushed)
	require.NoError(t, <-last)
	require.Equal(t, "firstlast", nc.written())
}

func TestFlushLast_RefusesBehindUnsentCiphertext(t *testing.T) {
	for n := range 6 {
		var w Writer
		var src output
		nc := sink{fail: func([]byte) (int, error) { return n, os.ErrDeadlineExceeded }}
		src.add("first")
		require.Error(t, w.Flush(&nc, &src))
		err := w.FlushLast(&nc, &src, func() { src.add("last") })
		if n == 5 {
			require.NoError(t, err, "all was sent, if late")
			require.Equal(t, "firstlast", nc.written())
			continue
		}
		require.Equal(t, errBehind, err)
		require.False(t, src.HasOutput(), "nothing is made")
		require.Equal(t, "first"[:n], nc.written())
	}
}
