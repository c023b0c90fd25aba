package main

import (
	"log"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
)

// table has encoded sessions, each with its expiry. They contain secrets and never
// leave the memory of this process.
type table struct {
	mu      sync.Mutex
	entries map[libssl.SessionID]entry
}

type entry struct {
	der     []byte
	expires time.Time
}

var sessions = table{entries: map[libssl.SessionID]entry{}}

// install makes the settings that the callbacks need: without them OpenSSL would
// not call get, or would call it only for some sessions.
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
	return s, libssl.Transfer // decoded for this answer only
}

func (t *table) removed(_ *libssl.Context, s *libssl.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, s.ID())
}

// sweep checks a few entries, beginning at a random place of the map. For each new
// entry it can drop more than one expired entry, so the table cannot fill up.
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

// size counts the sessions that have not expired.
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
