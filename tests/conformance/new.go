package conformance

import (
	"sync/atomic"

	"github.com/libssl-go/libssl"
)

const storedFirst = "what a step produced leaves only after its new sessions are stored"

var newFacts = []Fact{
	{
		ID:   "F1.1",
		Says: "TLS 1.2 without tickets: new runs once a full handshake, after the server's Finished was written",
		Cases: []Case{{
			Name: "full handshake", C: "new 1, its flight was already written yes",
			Go: "new 1, its flight was already written no", Why: storedFirst,
		}},
		Go: func(o *observer) { whenNewRuns(o, tls12) },
	},
	{
		ID:   "F1.2",
		Says: "TLS 1.3: new runs once a ticket, while it is built and before its bytes are written",
		Cases: []Case{
			{Name: "full handshake", C: "new 1, its flight was already written no"},
			{Name: "state", C: "handshake finished no", Go: absent, Why: "Go has no SSL_is_init_finished"},
		},
		Go: func(o *observer) { whenNewRuns(o, tls13) },
	},
}

func whenNewRuns(o *observer, version uint16) {
	l := o.lab(version)
	l.store()
	k := l.open(l.server, "", nil)
	var asked atomic.Int64 // what had left the server when the client wrote last
	k.wire.clientHook = func(p []byte) []byte {
		asked.Store(k.wire.fromServer.Load())
		return p
	}
	written := false
	l.onNew = func(*libssl.SSL, *libssl.Session) { written = k.wire.fromServer.Load() > asked.Load() }
	o.mustBe(k.run(), "a handshake")
	k.closeClean()
	o.say("full handshake", "new %d, its flight was already written %s", l.news, yes(written))
}
