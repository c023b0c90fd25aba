package conformance

import (
	"errors"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
)

// stage is a lab with the store's callbacks and the internal cache on. It returns n sessions from the server, in the order
// in which they were made; nothing else holds a reference to them.
func (o *observer) stage(version uint16, n int) (*lab, []*libssl.Session) {
	l := o.lab(version)
	l.store()
	made := make([]*libssl.Session, n)
	for i := range made {
		l.onNew = func(_ *libssl.SSL, s *libssl.Session) { made[i] = o.decode(s) }
		l.mustVisit(l.server, nil)
		o.mustBe(made[i] != nil, "a session")
	}
	l.onNew = nil
	clear(l.entries)
	l.reset()
	l.server.SetSessionCacheMode(libssl.CacheServer)
	return l, made
}

// decode makes a copy that nothing else holds, nil if it cannot.
func (o *observer) decode(s *libssl.Session) *libssl.Session {
	der, err := s.MarshalBinary()
	if err != nil {
		return nil
	}
	copied, err := libssl.ParseSession(der)
	if err != nil {
		return nil
	}
	o.atEnd(copied.Release)
	return copied
}

func (o *observer) dup(s *libssl.Session) *libssl.Session {
	dup, err := s.Dup()
	o.must(err)
	o.atEnd(dup.Release)
	return dup
}

func (l *lab) add(s *libssl.Session) {
	_, err := l.server.AddSession(s)
	l.o.must(err)
}

// give leaves the cache's reference as the only one.
func (l *lab) give(s *libssl.Session) {
	l.add(s)
	s.Release()
}

func (l *lab) remove(s *libssl.Session) {
	_, err := l.server.RemoveSession(s)
	l.o.must(err)
}

func (l *lab) flush() { l.o.must(l.server.FlushSessions(time.Time{})) }

// hold has new handlers retain the session they see last.
func (l *lab) hold() (held func() *libssl.Session) {
	var last *libssl.Session
	l.onNew = func(_ *libssl.SSL, s *libssl.Session) {
		last.Release()
		last, _ = s.Retain()
	}
	l.o.atEnd(func() { last.Release() })
	return func() *libssl.Session { return last }
}

func longAgo() time.Time { return time.Now().Add(-100000 * time.Second) }

// expireEntries has all entries of the store expire long ago.
func (l *lab) expireEntries() {
	for id, der := range l.entries {
		s, err := libssl.ParseSession(der)
		l.o.must(err)
		l.o.must(s.SetTime(longAgo()))
		l.entries[id], err = s.MarshalBinary()
		l.o.must(err)
		s.Release()
	}
}

// forget is what a naive store does on remove.
func (l *lab) forget() {
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.entries, s.ID())
	}
}

func corrupt(p []byte) []byte {
	wrong := append([]byte(nil), p...)
	wrong[len(wrong)-1] ^= 1
	return wrong
}

func (l *lab) runLink(offer *libssl.Session) *link {
	k := l.open(l.server, "", offer)
	l.o.mustBe(k.run(), "a handshake")
	return k
}

func (k *link) readFails() { k.o.mustBe(k.serverRead() != nil, "the end of the connection") }

func (k *link) serverRead() error {
	_, err := k.server.Read(make([]byte, 1))
	return err
}

func (k *link) alertSent() {
	k.wire.clientHook = corrupt
	_, err := k.client.Write([]byte{'x'})
	k.o.must(err)
	k.readFails()
}

func (k *link) alertReceived() {
	k.wire.serverHook = corrupt
	_, err := k.server.Write([]byte{'x'})
	k.o.must(err)
	_, err = k.client.Read(make([]byte, 1))
	k.o.mustBe(err != nil, "a corrupted record")
	k.readFails()
}

// halfWay handshakes and drops the client's bytes after its first flight. then runs when the server waits for them; it
// must end the server's handshake, and may wait for that.
func (k *link) halfWay(then func(served <-chan error)) {
	reached, served, flights := make(chan struct{}), make(chan error, 1), 0
	k.wire.clientHook = func(p []byte) []byte {
		flights++
		if flights == 1 {
			return p
		}
		if flights == 2 {
			close(reached)
		}
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() { served <- k.server.Handshake() })
	both.Go(func() { k.client.Handshake() })
	select {
	case <-reached:
	case <-time.After(10 * time.Second):
		k.o.mustBe(false, "a second flight from the client")
	}
	then(served)
	k.client.Abort()
	k.server.Abort()
	both.Wait()
}

// outcome is what a call that changes the cache came to.
func outcome(done bool, err error) string {
	switch {
	case errors.Is(err, libssl.ErrReentrant):
		return "ErrReentrant"
	case err != nil:
		return err.Error()
	case done:
		return "done"
	}
	return "nothing done"
}
