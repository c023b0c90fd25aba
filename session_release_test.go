package libssl

import (
	"bytes"
	"runtime"
	"testing"
)

// Release takes the pointer that an accessor on another goroutine is using, so it has to wait for that accessor.
func TestSession_ReleaseWaitsForAccessors(t *testing.T) {
	s := newSession(nil, home{}) // OpenSSL frees a NULL
	s.mu.Lock()                  // as an accessor does
	released := make(chan struct{})
	go func() {
		defer close(released)
		s.Release()
	}()
	stacks := make([]byte, 1<<20)
	for waits := false; !waits; runtime.Gosched() {
		select {
		case <-released:
			s.mu.Unlock()
			t.Fatal("Release did not wait for the lock")
		default:
		}
		for g := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
			atLock := bytes.Contains(g, []byte("[sync.Mutex.Lock"))
			waits = waits || atLock && bytes.Contains(g, []byte("(*Session).Release("))
		}
	}
	s.mu.Unlock()
	<-released
	if s.owned {
		t.Fatal("the reference is still the Session's")
	}
}
