package conformance

import (
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
	{
		ID:   "F1.3",
		Says: "new runs once a ticket: 2 by default, 1 in a resumed TLS 1.3 handshake, none in a resumed TLS 1.2 one",
		Cases: []Case{
			{Name: "1.3 default", C: "new 2"},
			{Name: "1.3 none", C: "new 0, objects 0, ids 0"},
			{Name: "1.3 three", C: "new 3, objects 3, ids 3"},
			{Name: "1.3 resumed", C: "resumed yes, new 1"},
			{Name: "1.3 resumed, none", C: "resumed yes, new 0"},
			{Name: "1.2 resumed", C: "resumed yes, new 0"},
			{
				Name: "1.3 requested", C: "new 0 at the request, 1 with a handshake call, 2 with the next write",
				Go: absent, Why: "Go has no SSL_new_session_ticket", From: v30,
			},
		},
		Go: func(o *observer) {
			defaultTickets(o)
			setTickets(o, "1.3 none", 0)
			setTickets(o, "1.3 three", 3)
			resumedTickets(o, "1.3 resumed", tls13, 3)
			resumedTickets(o, "1.3 resumed, none", tls13, 0)
			resumedTickets(o, "1.2 resumed", tls12, 3)
		},
	},
	{
		ID:   "F1.4",
		Says: "TLS 1.2 with tickets on both ends: new is never called, the session has no id",
		Cases: []Case{
			{Name: "client with tickets", C: "new 0, id 0 bytes, then get 0, resumed yes"},
			{Name: "client without", C: "new 1, id 32 bytes, then get 1, resumed yes"},
		},
		Go: func(o *observer) {
			ticketsIn12(o, "client with tickets", true)
			ticketsIn12(o, "client without", false)
		},
	},
	{
		ID:   "F1.5",
		Says: "TLS 1.3 with stateless tickets: new is called with an id that no ticket holds and get is never asked for",
		Cases: []Case{
			{
				Name: "stateless",
				C:    "new 1, id 32 bytes, in the client's ticket no, has ticket no, then get 0, resumed yes",
			},
			{
				Name: "stateless, client with the option",
				C:    "new 1, id 32 bytes, in the client's ticket no, has ticket no, then get 0, resumed yes",
			},
			{
				Name: "stateful",
				C:    "new 1, id 32 bytes, in the client's ticket yes, has ticket no, then get 1, resumed yes",
			},
			{Name: "stateless, another server's key", C: "get 0, resumed no"},
		},
		Go: func(o *observer) {
			ticketsIn13(o, "stateless", false, false)
			ticketsIn13(o, "stateless, client with the option", false, true)
			ticketsIn13(o, "stateful", true, false)
			ticketOfAnother(o)
		},
	},
	{
		ID:   "F1.6",
		Says: "Cache modes without SERVER stop new, the NO_INTERNAL bits do not; TLS 1.3 still sends tickets then",
		Cases: []Case{
			{Name: "1.2 off", C: "new 0, the client may come back no, then get 0, resumed no"},
			{Name: "1.2 client", C: "new 0, the client may come back no, then get 0, resumed no"},
			{Name: "1.2 no internal store", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.2 no internal lookup", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.2 no internal", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.3 off", C: "new 0, the client may come back yes, then get 1, resumed no"},
			{Name: "1.3 client", C: "new 0, the client may come back yes, then get 1, resumed no"},
			{Name: "1.3 no internal store", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.3 no internal lookup", C: "new 1, the client may come back yes, then get 1, resumed yes"},
			{Name: "1.3 no internal", C: "new 1, the client may come back yes, then get 1, resumed yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				cachedWith(o, "off", v, libssl.CacheOff)
				cachedWith(o, "client", v, libssl.CacheClient)
				cachedWith(o, "no internal store", v, libssl.CacheServer|libssl.CacheNoInternalStore)
				cachedWith(o, "no internal lookup", v, libssl.CacheServer|libssl.CacheNoInternalLookup)
				cachedWith(o, "no internal", v, libssl.CacheServer|libssl.CacheNoInternal)
			}
		},
	},
	{
		ID:   "F1.7",
		Says: "Without an id context any application's sessions are good, and with VERIFY_PEER new is silently skipped",
		Cases: []Case{
			{Name: "1.2 no context", C: "new 1, another application's server resumes it yes"},
			{Name: "1.2 no context, VERIFY_PEER", C: "new 0, the client may come back yes"},
			{Name: "1.2 context, VERIFY_PEER", C: "new 1, the client may come back yes"},
			{Name: "1.3 no context", C: "new 2, another application's server resumes it yes"},
			{Name: "1.3 no context, VERIFY_PEER", C: "new 0, the client may come back yes"},
			{Name: "1.3 context, VERIFY_PEER", C: "new 1, the client may come back yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				withoutContext(o, v)
				verifying(o, "no context, VERIFY_PEER", v, false)
				verifying(o, "context, VERIFY_PEER", v, true)
			}
		},
	},
	{
		ID:   "F1.8",
		Says: "new gets the connection's own session, already cached, with a reference of its own and final serial form",
		Cases: []Case{
			{
				Name: "1.2 cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 1",
			},
			{
				Name: "1.2 references, cached",
				C:    "gone after the callback's no, the connection's no, a flush yes",
			},
			{
				Name: "1.2 not cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 0",
			},
			{
				Name: "1.2 references, not cached",
				C:    "gone after the callback's no, the connection's yes, a flush yes",
			},
			{
				Name: "1.2 serial form",
				C:    "final yes, key yes, time yes, lifetime 1234, ALPN h2, name server.test, early data 0",
			},
			{
				Name: "1.3 cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 1",
			},
			{
				Name: "1.3 references, cached",
				C:    "gone after the callback's no, the connection's no, a flush yes",
			},
			{
				Name: "1.3 not cached",
				C:    "id 32 bytes, id context set yes, resumable yes, the connection's yes, cached 0",
			},
			{
				Name: "1.3 references, not cached",
				C:    "gone after the callback's no, the connection's yes, a flush yes",
			},
			{
				Name: "1.3 serial form",
				C:    "final yes, key yes, time yes, lifetime 1234, ALPN h2, name server.test, early data 4096",
			},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				stateOfObject(o, v, "cached", libssl.CacheServer)
				stateOfObject(o, v, "not cached", libssl.CacheServer|libssl.CacheNoInternal)
				serialForm(o, v)
			}
		},
	},
	{
		ID:   "F1.9",
		Says: "The result of new concerns its reference alone: 0 vetoes nothing; removing the session in the callback does",
		Cases: []Case{
			{Name: "1.2 returning 0", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.2 reference after 0", C: "objects left to the application 0, after its release 0"},
			{Name: "1.2 returning 1", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.2 reference after 1", C: "objects left to the application 1, after its release 0"},
			{Name: "1.2 removed in the callback", C: "cached 0, remove 1, then get 1, resumed no"},
			{Name: "1.3 returning 0", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.3 reference after 0", C: "objects left to the application 0, after its release 0"},
			{Name: "1.3 returning 1", C: "cached 1, remove 0, then get 0, resumed yes"},
			{Name: "1.3 reference after 1", C: "objects left to the application 1, after its release 0"},
			{Name: "1.3 removed in the callback", C: "cached 0, remove 1, then get 1, resumed no"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				returning(o, v, 0)
				returning(o, v, 1)
				vetoing(o, v)
			}
		},
	},
	{
		ID:   "F1.10",
		Says: "No lock is held while new runs",
		Cases: []Case{
			{Name: "1.2 lock", C: "held no, the session can be removed there yes"},
			{Name: "1.3 lock", C: "held no, the session can be removed there yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				lockDuringNew(o, v)
			}
		},
	},
	{
		ID:    "F1.11",
		Says:  "Callbacks, mode and cache are those of the SSL_CTX a connection was made with, also after a switch",
		Cases: switchCases,
		Go: func(o *observer) {
			for _, v := range protocols {
				for _, inHello := range []bool{false, true} {
					for _, onSecond := range []bool{false, true} {
						afterSwitch(o, v, inHello, onSecond)
					}
				}
			}
		},
	},
	{
		ID:   "F1.12",
		Says: "A renegotiation resumes the same session without a call, unless an option says otherwise",
		Cases: []Case{
			{Name: "by default", C: "renegotiated yes, the same session yes, new 1 in all"},
			{
				Name: "NO_SESSION_RESUMPTION_ON_RENEGOTIATION",
				C:    "renegotiated yes, the same session no, new 2 in all",
			},
		},
		Go: func(o *observer) {
			renegotiating(o, "by default", false)
			renegotiating(o, "NO_SESSION_RESUMPTION_ON_RENEGOTIATION", true)
		},
	},
	{
		ID:   "F1.13",
		Says: "Sessions of stateless TLS 1.3 tickets fill the internal cache only if a remove callback is set",
		Cases: []Case{
			{Name: "stateless, no remove callback", C: "new 1, cached 0"},
			{Name: "stateless, a remove callback", C: "new 1, cached 1"},
			{Name: "replay protection, no remove callback", C: "new 1, cached 1"},
			{Name: "NO_TICKET, no remove callback", C: "new 1, cached 1"},
		},
		Go: func(o *observer) {
			cachedIn13(o, "stateless, no remove callback", false, 0, false)
			cachedIn13(o, "stateless, a remove callback", true, 0, false)
			cachedIn13(o, "replay protection, no remove callback", false, 4096, false)
			cachedIn13(o, "NO_TICKET, no remove callback", false, 0, true)
		},
	},
	{
		ID:   "F1.14",
		Says: "A client in mode CLIENT: one call a full 1.2 handshake, one a 1.3 ticket read, none for a renewed 1.2 ticket",
		Cases: []Case{
			{Name: "1.2 mode SERVER", C: "new 0"},
			{Name: "1.2 server with NO_TICKET", C: "new 1 in the handshake, 0 while reading"},
			{Name: "1.2 server with tickets", C: "new 1 in the handshake, 0 while reading"},
			{
				// A 1.2 client sends this id in the ClientHello that offers the ticket, to see by the server's echo whether
				// the ticket was accepted.
				Name: "1.2 id with a ticket",
				C:    "32 bytes, the ticket's SHA-256 yes, resumed yes, sent for that yes",
			},
			{Name: "1.2 renewed ticket", C: "resumed yes, new 0, remove 1, the connection has another ticket yes"},
			{Name: "1.3 mode SERVER", C: "new 0"},
			{Name: "1.3 server with NO_TICKET", C: "new 0 in the handshake, 2 while reading"},
			{Name: "1.3 server with tickets", C: "new 0 in the handshake, 2 while reading"},
			{
				Name: "1.3 id with a ticket",
				C:    "32 bytes, the ticket's SHA-256 yes, resumed yes, sent for that no",
			},
			{Name: "1.3 renewed ticket", C: "resumed yes, new 1, remove 1, the connection has another ticket yes"},
		},
		Go: func(o *observer) {
			for _, v := range protocols {
				clientByDefault(o, v)
				clientCalls(o, "server with NO_TICKET", v, false)
				clientCalls(o, "server with tickets", v, true)
				clientIDs(o, v)
				clientRenews(o, v)
			}
		},
	},
}
