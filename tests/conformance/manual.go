package conformance

// Sentence is one statement of the manual page SSL_CTX_sess_set_get_cb as it stood in 2001, in our words, and what is
// true of it today.
type Sentence struct {
	Says    string
	Verdict string // "holds", "incomplete" or "wrong"; "wrong, dangerous" where code that follows it breaks
	Today   string
	Facts   []string // which show it
}

// Manual are the page's sentences, in its order.
var Manual = []Sentence{
	{"The get callback returns an SSL_SESSION by value and takes the id as unsigned char *.", "wrong",
		"It returns a pointer; the id is const since 1.1.0, belongs to the hello, and is good during the call only.", []string{"F2.4"}},
	{"The new callback is called whenever a new session was negotiated.", "incomplete",
		"Not for TLS 1.2 tickets, once a ticket in TLS 1.3, not under SSL_VERIFY_PEER without an id context.", []string{"F1.3", "F1.4", "F1.7"}},
	{"The remove callback is called when the engine removes a session that is faulty or expired.", "incomplete",
		"Also on eviction, at SSL_CTX_free, on request, by replay protection, and for sessions that were never cached; not for expired lookups in TLS 1.3.",
		[]string{"F3.1", "F5.1"}},
	{"The get callback is called when a client proposes a session that the internal cache lacks.", "incomplete",
		"Only where a lookup happens at all: not for stateless tickets, nor for an id beside a ticket. Under NO_INTERNAL_LOOKUP the cache is not even asked.",
		[]string{"F2.1", "F2.2"}},
	{"The get callback is for servers only.", "holds", "", []string{"F2.1"}},
	{"The getters return NULL where no callback was set.", "holds", "The Go getters return nil.", []string{"F4.2"}},
	{"Inside the callbacks sessions can be stored through d2i_SSL_SESSION.", "incomplete",
		"i2d stores, d2i loads, and what d2i loads has to be checked: trailing bytes pass, most damage passes, some failures queue no error.",
		[]string{"F1.8", "F7.6"}},
	{"The new callback is called only if session caching is on.", "holds",
		"It depends on the mode alone; the NO_INTERNAL bits make no difference.", []string{"F1.6"}},
	{"If the new callback returns 0 the session is removed again at once.", "wrong, dangerous",
		"0 gives a reference back, no more: the session stays cached and resumable. Any other value means that the callback now owns a reference.",
		[]string{"F1.9"}},
	{"The remove callback is called whenever the engine removes a session from the internal cache.", "wrong",
		"Also for sessions that were never in it, and not for one that is displaced by another of the same id.", []string{"F3.1", "F3.3"}},
	{"That happens because it expired or because the connection was not shut down cleanly.", "incomplete",
		"Clean means that this side sent a close_notify; of several TLS 1.3 tickets only the last one's session is concerned.", []string{"F3.1", "F3.3"}},
	{"The remove callback gives no feedback.", "holds", "And gets none: there is no reason code.", []string{"F3.2"}},
	{"The get callback is called on servers with the session id that the client proposed.", "incomplete",
		"In TLS 1.3 it is the PSK identity, which has nothing to do with the id in the hello.", []string{"F2.4"}},
	{"The get callback is always called, also when caching was disabled.", "incomplete",
		"The mode does not stop it, but much else does.", []string{"F2.1", "F2.2"}},
	{"With copy the callback can have the reference count incremented.", "holds", "", []string{"F2.7"}},
	{"Normally the count is not incremented, so the session must not be freed.", "wrong, dangerous",
		"*copy is 1 on entry, so normally it is incremented. Code that follows the sentence leaks every session; code that then frees under *copy = 0 frees a reference it does not own.",
		[]string{"F2.7"}},
}
