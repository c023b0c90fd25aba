package conformance

import (
	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

// ---- F3.4, F3.5 ---------------------------------------------------------------------------

// Triggers of remove, for a lab with two sessions; the cache has the first one's only reference.

func flushIt(l *lab, s []*libssl.Session) {
	l.give(s[0])
	l.flush()
}

func evictIt(l *lab, s []*libssl.Session) {
	l.server.SetSessionCacheSize(1)
	l.give(s[0])
	l.add(s[1])
}

func freeIt(l *lab, s []*libssl.Session) {
	l.give(s[0])
	l.o.must(l.server.Close())
}

func removeIt(l *lab, s []*libssl.Session) { l.remove(s[0]) }

func removedObjects(o *observer) {
	for _, c := range []struct {
		name, cached string
		trigger      func(l *lab, s []*libssl.Session)
	}{
		{"flush", "cached during a flush", flushIt},
		{"eviction", "cached during an eviction", evictIt},
		{"context freed", "", freeIt},
		{"asked for, not cached", "", removeIt},
	} {
		l, s := o.stage(tls12, 2)
		resumable, cached := true, -1
		l.onRemove = func(ctx *libssl.Context, s *libssl.Session) {
			resumable, cached = s.Resumable(), ctx.Stats().Number
		}
		destroyed := cref.SessionsDestroyed()
		c.trigger(l, s)
		o.say(c.name, "resumable %s, destroyed by the call %d", yes(resumable), cref.SessionsDestroyed()-destroyed)
		if c.cached != "" {
			o.say(c.cached, "others %d", cached)
		}
		l.onRemove = nil
	}
	removedInConnection(o)
	removedCopy(o)
}

func removedInConnection(o *observer) {
	l, _ := o.stage(tls12, 0)
	resumable := true
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) { resumable = s.Resumable() }
	k := l.runLink(nil)
	k.session() // or closing would destroy the client's session too
	destroyed := cref.SessionsDestroyed()
	l.flush()
	o.say("flush, a connection holds it too", "resumable %s, destroyed by the call %d", yes(resumable),
		cref.SessionsDestroyed()-destroyed)
	k.closeClean()
	o.say("then the connection's end", "destroyed %d", cref.SessionsDestroyed()-destroyed)
}

func removedCopy(o *observer) {
	l, made := o.stage(tls12, 1)
	s, equal := made[0], o.dup(made[0])
	var der []byte
	var kept *libssl.Session
	its := false
	l.onRemove = func(_ *libssl.Context, seen *libssl.Session) { its = seen.Pointer() == equal.Pointer() }
	l.add(s)
	l.remove(equal)
	o.say("asked for with an equal copy", "it is the caller's object %s, the cached one is resumable %s, cached %d",
		yes(its), yes(s.Resumable()), l.server.Stats().Number)

	before, err := s.MarshalBinary()
	o.must(err)
	l.onRemove = func(_ *libssl.Context, seen *libssl.Session) {
		der, _ = seen.MarshalBinary()
		kept, _ = seen.Retain()
	}
	l.give(s)
	o.must(l.server.Close())
	o.say("its content", "DER as before %s", yes(string(der) == string(before)))
	der, err = kept.MarshalBinary()
	o.must(err)
	kept.Release()
	o.say("a reference outlives the context", "DER as before %s", yes(string(der) == string(before)))
}

func evictionPoisons(o *observer) {
	l, s := o.stage(tls12, 2)
	l.server.SetSessionCacheSize(1)
	l.add(s[0])
	o.say("cached", "resumable %s", yes(s[0].Resumable()))
	l.add(s[1])
	o.say("evicted", "remove %d, resumable for who holds it %s", l.removes, yes(s[0].Resumable()))
}
