package main

import (
	"sync"

	"github.com/libssl-go/libssl"
)

// table is the table of the C server, in Go.
type table struct {
	mu   sync.Mutex
	refs map[libssl.SessionID]*libssl.Session // one reference each
}

var sessions = table{refs: map[libssl.SessionID]*libssl.Session{}}

func (t *table) install(ctx *libssl.Context) {
	ctx.SetSessNewCallback(t.created)
	ctx.SetSessGetCallback(t.wanted)
	ctx.SetSessRemoveCallback(t.removed)
}

func (t *table) created(_ *libssl.SSL, s *libssl.Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refs[s.ID()] = s
	return true // the table now owns the reference
}

func (t *table) wanted(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refs[id], libssl.Copy
}

func (t *table) removed(_ *libssl.Context, s *libssl.Session) {
	id := s.ID()
	t.mu.Lock()
	ours := t.refs[id]
	delete(t.refs, id)
	t.mu.Unlock()
	ours.Release() // does nothing if the table did not have it
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.refs)
}
