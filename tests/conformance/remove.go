package conformance

const (
	noClear      = "Go has no SSL_clear, and a server's Conn no SetSession"
	noQuiet      = "Go has no quiet shutdown: Close never drops a session"
	closeKeeps   = "Close never drops a session, Abort does what SSL_free does"
	reentrant    = "calls that need the context's lock answer ErrReentrant from a remove handler, on every release"
	deadSession  = "a nil Session answers ErrReleased"
	noReplay     = "early data is offered only through UseStore, where taking the entry replaces OpenSSL's replay protection"
	noExData     = "a Session has no ex_data"
	noCallsLeft  = "a Context that is closed has no call left that could wait"
	addsAreInRow = "AddSession calls of a Context wait for each other"
)

const (
	lockHeld = "lock held"
	noLock   = "no lock"
)

var removeFacts = []Fact{
	{
		ID:   "F3.1",
		Says: "remove: requests, expiry, flush, eviction, alerts, unclean ends, replay protection, the context's end",
		Cases: join(
			[]Case{
				{Name: "asked for, cached", C: "remove 1, it was there yes"},
				{Name: "asked for, not cached", C: "remove 1, it was there no"},
				{Name: "asked for, NULL", C: "remove 0, it was there no", Go: "remove 0, ErrReleased", Why: deadSession},
				{Name: "asked for, empty id", C: "remove 0, it was there no"},
				{Name: "displaced by an equal id", C: "remove 0, cached 1"},
				{Name: "flush", C: "remove 1"},
				{Name: "eviction", C: "remove 1"},
				{Name: "context freed with 2 cached", C: "remove 2"},
				{Name: "expired in the store, 1.2", C: "resumed no, remove 1"},
				{Name: "expired in the store, 1.3", C: "resumed no, remove 0"},
				{Name: "expired in the cache, 1.2", C: "resumed no, remove 1, cached then 1"},
				{Name: "expired in the cache, 1.3", C: "resumed no, remove 0, cached then 2"},
			},
			endCases("1.2"), endCases("1.3"),
			[]Case{
				{
					Name: "consumed by replay protection, 1.3", C: "resumed yes, remove 1",
					Go: "resumed yes, remove 0", Why: noReplay,
				},
				{Name: "a client's ticket is renewed, 1.2", C: "resumed yes, remove 1"},
				{Name: "a client's session is used, 1.3", C: "resumed yes, remove 1"},
			},
		),
		Go: func(o *observer) {
			removedByCall(o)
			removedFromCache(o)
			for _, version := range []uint16{tls12, tls13} {
				removedByLookup(o, version)
				removedByEnd(o, version)
				abandoned(o, version)
			}
			consumed(o)
			removedOnClient(o, tls12, "a client's ticket is renewed, 1.2")
			removedOnClient(o, tls13, "a client's session is used, 1.3")
		},
	},
	{
		ID:   "F3.2",
		Says: "No reason code and no SSL: a server that ends reports all it has cached, unless the callback is taken away",
		Cases: []Case{
			{Name: "a server ends", C: "remove 3, entries left 0 of 3"},
			{Name: "callback taken away first", C: "remove 0, entries left 3 of 3"},
		},
		Go: noReason,
	},
	{
		ID:   "F3.3",
		Says: "Removals and additions don't pair up",
		Cases: []Case{
			{Name: "cache off", C: "new 0, remove 1"},
			{Name: "3 tickets", C: "new 3, remove 1, of the last yes"},
			{Name: "a session of another server", C: "new 0, remove 1"},
			{Name: "one session, three times", C: "remove 3"},
		},
		Go: noPairs,
	},
	{
		ID:   "F3.4",
		Says: "The object is marked not resumable, no longer cached, the caller's own; a reference outlives the context",
		Cases: []Case{
			{Name: "flush", C: "resumable no, destroyed by the call 1"},
			{Name: "cached during a flush", C: "others 0"},
			{Name: "eviction", C: "resumable no, destroyed by the call 1"},
			{Name: "cached during an eviction", C: "others 1"},
			{Name: "context freed", C: "resumable no, destroyed by the call 1"},
			{Name: "asked for, not cached", C: "resumable no, destroyed by the call 0"},
			{Name: "flush, a connection holds it too", C: "resumable no, destroyed by the call 0"},
			{Name: "then the connection's end", C: "destroyed 1"},
			{Name: "asked for with an equal copy", C: "it is the caller's object yes, the cached one is resumable yes, cached 0"},
			{Name: "its content", C: "DER as before yes"},
			{Name: "its ex_data", C: "readable yes", Go: absent, Why: noExData},
			{Name: "a reference outlives the context", C: "DER as before yes"},
		},
		Go: removedObjects,
	},
	{
		ID:   "F3.5",
		Says: "Eviction marks the object not resumable for all who hold it",
		Cases: []Case{
			{Name: "cached", C: "resumable yes"},
			{Name: "evicted", C: "remove 1, resumable for who holds it no"},
		},
		Go: evictionPoisons,
	},
	{
		// No release number tells: 3.6.3 holds the lock, 3.6.5 does not.
		ID:   "F3.6",
		Says: "Flush, eviction and the context's end may call remove under the context's lock, nothing else does",
		Cases: join(
			[]Case{
				{Name: "flush", C: lockHeld, Before: v30},
				{Name: "eviction", C: lockHeld, Before: v30},
				{Name: "context freed", C: lockHeld, Go: absent, Why: noCallsLeft, Before: v30},
			},
			either(Case{Name: "flush", From: v30}, lockHeld, noLock),
			either(Case{Name: "eviction", From: v30}, lockHeld, noLock),
			either(Case{Name: "context freed", Go: absent, Why: noCallsLeft, From: v30}, lockHeld, noLock),
			[]Case{
				{Name: "asked for", C: noLock},
				{Name: "expired at lookup, 1.2", C: noLock},
				{Name: "fatal alert sent", C: noLock},
				{Name: "fatal alert received", C: noLock},
				{Name: "freed", C: noLock},
				{Name: "SSL_clear", C: noLock, Go: absent, Why: noClear},
				{Name: "replay protection, 1.3", C: noLock, Go: "not called", Why: noReplay},
			},
		),
		Go: removeLocks,
	},
	{
		ID:   "F3.7",
		Says: "Releases that call remove after the lock chain what they evict through the sessions: inserted again, they crash",
		Cases: join(
			[]Case{{Name: "re-insertion from remove", C: "refused", Go: "ErrReentrant", Why: reentrant, Before: v30}},
			either(Case{Name: "re-insertion from remove", Go: "ErrReentrant", Why: reentrant, From: v30}, "refused", "crash"),
			[]Case{
				{Name: "four threads insert shared sessions", C: "sound"},
				{Name: "four threads insert shared sessions", C: "crash", Go: "sound", Why: addsAreInRow, From: v30},
				{Name: "four threads insert shared sessions", C: "hang", Go: "sound", Why: addsAreInRow, From: v30},
			},
		),
		Children: map[string]func(o *observer){
			"re-insertion from remove":            reinsertion,
			"four threads insert shared sessions": insertShared,
		},
	},
	{
		ID:   "F3.8",
		Says: "Without the internal store remove comes for single sessions only, and never under a lock",
		Cases: []Case{
			{Name: "3 sessions, cache of 1", C: "new 3, cached 0, remove 0"},
			{Name: "flush", C: "remove 0"},
			{Name: "freed without close_notify", C: "remove 1, no lock"},
			{Name: "asked for", C: "remove 1, no lock"},
			{Name: "expired at lookup, 1.2", C: "remove 1, no lock"},
			{Name: "context freed", C: "remove 0"},
		},
		Go: noInternalStore,
	},
	{
		ID:   "F3.9",
		Says: "Calls back into the context fail silently under the lock, or break it on 1.1.1; without the lock they work",
		Cases: join(
			[]Case{
				inFlush(Case{C: "add works yes, remove works yes, flush works yes, locks that are never free again 3", Before: v30}),
				inFlush(Case{C: "add works no, remove works no, flush works no, locks that are never free again 0", From: v30}),
				inFlush(Case{C: "add works yes, remove works yes, flush works yes, locks that are never free again 0", From: v30}),
				inFlush(Case{C: "crash", From: v35}), // a library with assertions aborts
				{Name: "harmless calls in a flush",
					C: "count yes, encode yes, duplicate yes, retain yes, new connection yes, set timeout yes"},
				{Name: "add in a removal", C: "done"},
				{Name: "remove in a removal", C: "done"},
				{Name: "flush in a removal", C: "done"},
				{Name: "the same session removed in its removal", C: "remove 2", Go: "remove 1, ErrReentrant",
					Why: "RemoveSession of the session that a remove handler is called for answers ErrReentrant"},
			},
		),
		Go:       reentry,
		Children: map[string]func(o *observer){"calls in a flush": nil},
	},
	{
		ID:   "F3.10",
		Says: "A size of N holds N on 1.1.1 and N-1 later; victims and order of a flush differ too; expiry is strict",
		Cases: join(
			[]Case{
				{Name: "default size", C: "20480"},
				{Name: "a size of 0, 1, 2, 3", C: "holds 8, 1, 2, 3 of 8", Before: v30},
				{Name: "a size of 0, 1, 2, 3", C: "holds 8, 1, 1, 2 of 8", From: v30},
				{Name: "victim", C: "inserted first", Before: v30},
				{Name: "victim", C: "expires first", From: v30},
				{Name: "order of a flush", C: "another", Before: v30}, // the hash table's
			},
			// It goes with calling remove after the lock, as 4.0 and 3.6.5 do: these begin with the last to expire.
			either(Case{Name: "order of a flush", From: v30}, "first to expire first", "last to expire first"),
			[]Case{
				{Name: "flush at time and lifetime", C: "remove 0"},
				{Name: "flush a second later", C: "remove 1"},
			},
		),
		Go: orderAndAmount,
	},
	{
		ID:   "F3.11",
		Says: "The cache is flushed by every 255th good handshake of the context, and never where all are switched away",
		Cases: join(
			[]Case{{Name: "none switched", C: "an expired session leaves it in handshake 256, lock held", Before: v30}},
			either(Case{Name: "none switched", From: v30}, "an expired session leaves it in handshake 256, lock held",
				"an expired session leaves it in handshake 256, no lock"),
			[]Case{{Name: "all switched to another context", C: "an expired session stays in the cache"}},
		),
		Go: automaticFlush,
	},
	{
		ID:   "F3.12",
		Says: "Anyone on the path can make the server forget a session",
		Cases: []Case{
			{Name: "an alert in the clear after a client's id, 1.2", C: "remove 1, the honest client resumes then no"},
			{Name: "a corrupted record, 1.2", C: "remove 1, the honest client resumes then no"},
			{Name: "a corrupted record, 1.3", C: "remove 1, the honest client resumes then no"},
			{
				Name: "a wrong binder, replay protection", C: "handshake fails yes, remove 1",
				Go: "handshake fails yes, remove 0", Why: noReplay,
			},
			{Name: "a wrong binder, no replay protection", C: "handshake fails yes, remove 0"},
		},
		Go: anyoneRemoves,
	},
}

func endCases(version string) []Case {
	return []Case{
		{Name: "fatal alert sent, " + version, C: "remove 1, after SSL_free 1"},
		{Name: "fatal alert received, " + version, C: "remove 1, after SSL_free 1"},
		{Name: "freed, " + version, C: "remove 0, after SSL_free 1"},
		{Name: "SSL_clear, " + version, C: "remove 1, after SSL_free 1", Go: absent, Why: noClear},
		{Name: "SSL_set_session, " + version, C: "remove 1, after SSL_free 1", Go: absent, Why: noClear},
		{Name: "close_notify only received, " + version, C: "remove 0, after SSL_free 1"},
		{Name: "close_notify sent, " + version, C: "remove 0, after SSL_free 0"},
		{Name: "quiet shutdown, " + version, C: "remove 0, after SSL_free 0", Go: absent, Why: noQuiet},
		{Name: "closed while a Write is blocked, " + version, C: absent, Go: "remove 0", Why: closeKeeps},
		{Name: "resumption abandoned half way, " + version, C: "looked up 1, remove 0"},
	}
}

func inFlush(c Case) Case {
	c.Name, c.Go, c.Why = "calls in a flush", "add ErrReentrant, remove ErrReentrant, flush ErrReentrant", reentrant
	return c
}
