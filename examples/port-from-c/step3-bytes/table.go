package main

import (
	"log"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
)

// table has sessions as bytes, each with an end of its own. The bytes hold
// secrets, and stay in the memory of this process.
type table struct {
	mu      sync.Mutex
	entries map[libssl.SessionID]entry
}

type entry struct {
	der     []byte
	expires time.Time
}

var sessions = table{entries: map[libssl.SessionID]entry{}}

// install makes the settings without which the callbacks are not called, or not
// for what the table could answer.
func (t *table) install(ctx *libssl.Context) error {
	if err := ctx.SetSessionIDContext([]byte("port-from-c")); err != nil {
		return err
	}
	ctx.SetOptions(libssl.OpNoTicket)
	ctx.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)
	ctx.SetSessNewCallback(t.created)
	ctx.SetSessGetCallback(t.wanted)
	ctx.SetSessRemoveCallback(t.removed)
	return nil
}

func (t *table) created(_ *libssl.SSL, s *libssl.Session) bool {
	der, err := s.MarshalBinary()
	if err != nil {
		log.Printf("a session is lost: %v", err)
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep()
	t.entries[s.ID()] = entry{der, s.Expires()}
	return false // no reference is kept
}

func (t *table) wanted(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
	t.mu.Lock()
	e, ok := t.entries[id]
	t.mu.Unlock()
	if !ok {
		return nil, libssl.Copy
	}
	s, err := libssl.ParseSession(e.der)
	if err != nil {
		log.Printf("a session is unreadable: %v", err)
		return nil, libssl.Copy
	}
	return s, libssl.Transfer // made for this one answer
}

func (t *table) removed(_ *libssl.Context, s *libssl.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, s.ID())
}

// sweep looks at a few entries, wherever the map begins this time: for each one
// that comes more than one that has ended can go.
func (t *table) sweep() {
	now, looked := time.Now(), 0
	for id, e := range t.entries {
		if e.expires.Before(now) {
			delete(t.entries, id)
		}
		if looked++; looked == 4 {
			return
		}
	}
}

// size counts those that can still be resumed.
func (t *table) size() (n int) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		if !e.expires.Before(now) {
			n++
		}
	}
	return n
}
