package conformance

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/internal/cref"
)

const (
	noSuchField    = "Go has no call for it"
	keptChain      = "the client's further certificates are kept with the session, so that it can be verified again"
	wholeInputOnly = "ParseSession requires that all bytes are the session's"
	noReuse        = "Go always decodes into a new object"
	neverNegative  = "Go refuses it on every release"
	shortDuration  = "a time.Duration ends after 292 years"
)

const (
	survives12 = "version yes, cipher yes, id yes, id context yes, secret yes, time 1000000000, lifetime 1234, " +
		"name server.test, ALPN h2, early data 0, the same bytes yes"
	survives13 = "version yes, cipher yes, id yes, id context yes, secret yes, time 1000000000, lifetime 1234, " +
		"name server.test, ALPN h2, early data 1000, the same bytes yes"
	untrusted  = "full 2, resumed where they are not trusted yes, then 1"
	judged     = "full 2, where they are not trusted fails on the server"
	unknownKey = "a raw public key does not say whose it is, and is not verified"
	verified   = "the client of a resumption is verified as that of a full handshake is"
	unverified = "in full handshakes yes, in resumed ones no, the first one's result is back yes"
)

var serialFacts = []Fact{
	{
		ID:   "F7.1",
		Says: "Written fields survive; ex_data and the peer's chain without its leaf are lost, and nothing is verified again",
		Cases: []Case{
			{Name: "fields 1.2", C: survives12},
			{Name: "fields 1.3", C: survives13},
			{Name: "the client's 1.2", C: "ticket no, resumed yes"},
			{Name: "the client's 1.3", C: "ticket yes, resumed yes"},
			{
				Name: "more fields", C: "application data data, fragment length 1024, ticket hint yes, ex_data no",
				Go: absent, Why: noSuchField,
			},
			{Name: "certificates 1.2", C: untrusted, Go: judged, Why: verified},
			{Name: "certificates 1.3", C: untrusted, Go: judged, Why: verified},
			{Name: "verify callback 1.2", C: unverified, Go: absent, Why: noSuchField},
			{Name: "verify callback 1.3", C: unverified, Go: absent, Why: noSuchField},
			{Name: "PSK identity", C: "somebody", Go: absent, Why: noSuchField},
			{Name: "key-exchange group", C: "no such call", Go: absent, Why: noSuchField, Before: v30},
			{Name: "key-exchange group", C: "the same", Go: absent, Why: noSuchField, From: v30},
			{Name: "raw public key", C: "no such call", Go: absent, Why: noSuchField, Before: v32},
			{Name: "raw public key", C: "the client's", Go: absent, Why: noSuchField, From: v32},
		},
		Go: func(o *observer) {
			whatSurvives(o, "1.2", tls12)
			whatSurvives(o, "1.3", tls13)
			whoVerifies(o, "1.2", tls12)
			whoVerifies(o, "1.3", tls13)
		},
	},
	{
		ID:   "F7.2",
		Says: "Sizes: some 110 to 150 bytes, and the client's certificate; no upper limit",
		Cases: []Case{
			{Name: "1.2", C: "110 to 150 bytes yes, and the client's certificate and less than 10 bytes around it yes",
				Go: "110 to 150 bytes yes, and the client's certificate and less than 10 bytes around it no", Why: keptChain},
			{Name: "1.3", C: "110 to 150 bytes yes, and the client's certificate and less than 10 bytes around it yes",
				Go: "110 to 150 bytes yes, and the client's certificate and less than 10 bytes around it no", Why: keptChain},
			{Name: "with 100000 bytes of application data", C: "read yes"},
		},
		Go: sizes,
	},
	{
		ID:    "F7.3",
		Says:  "Between releases: 1.1.1's are read by all, 3.0 to 4.0 read each other's, and 1.1.1 reads only its own",
		Cases: readingKept(),
		Go:    readKeptSessions,
	},
	{
		ID:   "F7.4",
		Says: "The not-resumable mark is not written: a removed session that is decoded resumes again",
		Cases: []Case{
			{Name: "resumable", C: "made yes, removed no, decoded yes"},
			{Name: "from a store", C: "get 1, resumed yes"},
		},
		Go: theMark,
	},
	{
		ID:   "F7.5",
		Says: "Times: lifetime 0 comes back as 3 s and time 0 as now; from 3.5 on what exceeds 584 years wraps around",
		Cases: []Case{
			{Name: "lifetime 0", C: "comes back as 3"},
			{Name: "time 0", C: "comes back as now yes"},
			{
				Name: "the longest lifetime", C: "set and read 9223372036854775807, decoded 9223372036854775807",
				Go: "set and read 9223372036, decoded 9223372036", Why: shortDuration, Before: v35,
			},
			// Nanoseconds wrap at 2^64, which is no bound of 584 years: the longest lifetime comes near that by chance, and
			// 634 years become 49.
			{
				Name: "the longest lifetime", C: "set and read 18446744072, decoded 18446744072",
				Go: "set and read 9223372036, decoded 9223372036", Why: shortDuration, From: v35,
			},
			{Name: "634 years", C: "decoded 20000000000", Go: "decoded 9223372036", Why: shortDuration, Before: v35},
			{Name: "634 years", C: "decoded 1553255926", From: v35},
			{Name: "negative lifetime", C: "accepted yes", Go: "accepted no", Why: neverNegative, Before: v30},
			{Name: "negative lifetime", C: "accepted no", From: v30},
		},
		Go: times,
	},
	{
		ID:   "F7.6",
		Says: "Bad input: cut is refused, longer is not, most changes are read, and some failures queue no error",
		Cases: []Case{
			{Name: "cut anywhere", C: "read 0, without an error 0"},
			{Name: "7 bytes more", C: "read yes", Go: "read no", Why: wholeInputOnly},
			{Name: "the pointer", C: "7 bytes short of the end, on failure moved no", Go: absent, Why: wholeInputOnly},
			{Name: "a byte changed", C: "65 to 80% read yes"},
			{Name: "unknown cipher", C: "read no"},
			{Name: "its error", C: "none queued yes"},
			{Name: "decoded over another", C: "on failure it stays whole no", Go: absent, Why: noReuse},
			{Name: "without a cipher", C: "written no"},
			{Name: "that error", C: "none queued yes"},
		},
		Go: badInput,
	},
	{
		ID:   "F7.7",
		Says: "A session with a maximum fragment length fails to resume for a client that does not ask for it again",
		Cases: []Case{
			{Name: "asked for again 1.2", C: "ok yes, resumed yes", Go: absent, Why: noSuchField},
			{Name: "asked for again 1.3", C: "ok yes, resumed yes", Go: absent, Why: noSuchField},
			{Name: "not asked for again 1.2", C: "ok no, it ends at the server with bad extension", Before: v30},
			{Name: "not asked for again 1.2", C: "ok no, it ends at the client with unsolicited extension", From: v30},
			{Name: "not asked for again 1.3", C: "ok no, it ends at the server with bad extension", Before: v30},
			{Name: "not asked for again 1.3", C: "ok no, it ends at the client with unsolicited extension", From: v30},
		},
		Go: func(o *observer) {
			fragmentLength(o, "1.2", tls12)
			fragmentLength(o, "1.3", tls13)
		},
	},
	{
		ID:   "F7.8",
		Says: "The longest secret has 256 bytes on 1.1.1, 512 from 3.0",
		Cases: []Case{
			{Name: "longest secret", C: "256 bytes", Before: v30},
			{Name: "longest secret", C: "512 bytes", From: v30},
		},
		Go: longestSecret,
	},
}

// connect is a visit that asks for a name and leaves the connection open.
func (l *lab) connect(server *libssl.Context, offer *libssl.Session) *link {
	k := l.open(server, "server.test", offer)
	l.o.mustBe(k.run(), "a handshake")
	return k
}

// parse is for what has to be a session; it is released with the scenario.
func (o *observer) parse(der []byte) *libssl.Session {
	s, err := libssl.ParseSession(der)
	o.must(err)
	o.atEnd(s.Release)
	return s
}

func (o *observer) marshal(s *libssl.Session) []byte {
	der, err := s.MarshalBinary()
	o.must(err)
	return der
}

// serverSession is the server's session of a fresh handshake, out of its serial form.
func serverSession(o *observer, version uint16) *libssl.Session {
	l := o.lab(version)
	l.store()
	l.mustVisit(l.server, nil)
	return o.parse(l.onlyEntry())
}

// ---- F7.1 -------------------------------------------------------------------------

func whatSurvives(o *observer, name string, version uint16) {
	l := o.lab(version)
	l.store()
	o.must(l.server.SetALPN("h2"))
	o.must(l.client.SetALPN("h2"))
	k := l.connect(l.server, nil)
	client := o.parse(o.marshal(k.session()))
	k.closeClean()
	entry := l.onlyEntry()
	if version == tls13 { // Go has no call that would make the server write it
		fields := o.fields(entry)
		entry = fields.with(fieldEarlyData, 1000).der()
	}
	s := o.parse(entry)

	k = l.connect(l.server, client)
	o.say("the client's "+name, "ticket %s, resumed %s", yes(client.HasTicket()), yes(k.resumed()))
	k.closeClean()

	o.must(s.SetTime(time.Unix(1000000000, 0)))
	o.must(s.SetTimeout(1234 * time.Second))
	c := o.parse(o.marshal(s))
	secret := cref.MasterKey(s.Pointer())
	o.say("fields "+name, "version %s, cipher %s, id %s, id context %s, secret %s, time %d, lifetime %d, name %s, ALPN %s, "+
		"early data %d, the same bytes %s",
		yes(c.Version() == s.Version() && c.Version() == version), yes(c.CipherSuite() == s.CipherSuite() && c.CipherSuite() != 0),
		yes(c.ID() == s.ID() && !c.ID().IsZero()), yes(bytes.Equal(c.IDContext(), s.IDContext()) && len(c.IDContext()) > 0),
		yes(bytes.Equal(cref.MasterKey(c.Pointer()), secret) && len(secret) > 0), c.Time().Unix(), c.Timeout()/time.Second,
		c.ServerName(), c.ALPN(), c.MaxEarlyData(), yes(bytes.Equal(o.marshal(c), o.marshal(s))))
}

// showCertificate gives the client the lab's certificate, with an issuer's after it as it were.
func (l *lab) showCertificate() (certificate []byte) {
	pair, err := cref.CertificatePEM()
	l.o.must(err)
	l.o.must(l.client.UseCertificatePEM(append(bytes.Clone(pair), pair...), pair))
	return pair
}

// The server that resumes does not trust the client's certificate, and does not look.
func whoVerifies(o *observer, name string, version uint16) {
	l := o.lab(version)
	l.store()
	other := l.newServer()
	l.storeOn(other)
	o.must(l.server.AddClientCAsPEM(l.showCertificate()))
	o.must(l.server.SetVerify(libssl.VerifyPeer))
	o.must(other.SetVerify(libssl.VerifyPeer))
	k := l.connect(l.server, nil)
	full := len(k.server.ConnectionState().PeerCertificates)
	client := k.session()
	k.closeClean()
	k = l.open(other, "", client)
	o.say("certificates "+name, "full %d, where they are not trusted %s", full, k.outcome(k.run()))
	k.closeClean()
}

// ---- F7.2 -------------------------------------------------------------------------

func sizes(o *observer) {
	for _, v := range []struct {
		name    string
		version uint16
	}{{"1.2", tls12}, {"1.3", tls13}} {
		l := o.lab(v.version)
		l.store()
		l.mustVisit(l.server, nil)
		plain := l.onlyEntry()
		l.entries = map[libssl.SessionID][]byte{}
		pair := l.showCertificate()
		o.must(l.server.AddClientCAsPEM(pair))
		o.must(l.server.SetVerify(libssl.VerifyPeer))
		l.mustVisit(l.server, nil)
		certificate, _ := pem.Decode(pair)
		more := len(l.onlyEntry()) - len(plain) - len(certificate.Bytes)
		o.say(v.name, "110 to 150 bytes %s, and the client's certificate and less than 10 bytes around it %s",
			yes(len(plain) >= 110 && len(plain) <= 150), yes(more > 0 && more < 10))
		if v.version == tls13 {
			fields := o.fields(plain)
			s, err := libssl.ParseSession(fields.with(fieldAppData, make([]byte, 100000)).der())
			s.Release()
			o.say("with 100000 bytes of application data", "read %s", yes(err == nil))
		}
	}
}

// ---- F7.3 -------------------------------------------------------------------------

// readingKept says what each release makes of the sessions that are kept of each.
func readingKept() (all []Case) {
	for _, k := range keptSessions {
		n := len(k.handshakes)
		text := func(read, same, more, resumed, missed int, err string) string {
			return fmt.Sprintf("of %d read %d, the same bytes again %d, 5 or 6 bytes more %d, resumed %d, missed %d, error %s",
				n, read, same, more, resumed, missed, err)
		}
		readable := text(n, n, 0, n, 0, "none")
		lost := Case{Name: k.writer, C: text(0, 0, 0, 0, n, "nested asn1 error"), Before: v30}
		switch {
		case k.writer == "1.1.1":
			all = append(all, Case{Name: k.writer, C: readable, Before: v30},
				Case{Name: k.writer, C: text(n, 0, n, n, 0, "none"), From: v30})
		case strings.HasPrefix(k.writer, "raw-key"):
			all = append(all, lost,
				Case{Name: k.writer, C: text(0, 0, 0, 0, n, "sequence length mismatch"), From: v30, Before: v32},
				Case{Name: k.writer, C: readable, Go: text(n, n, 0, 0, n, "none"), Why: unknownKey, From: v32})
		default:
			all = append(all, lost, Case{Name: k.writer, C: readable, From: v30})
		}
	}
	return all
}

func readKeptSessions(o *observer) {
	for _, k := range keptSessions {
		var read, same, more, resumed, missed int
		first := "none"
		for _, h := range k.handshakes {
			server, err := libssl.ParseSession(h.server)
			if err == nil {
				o.atEnd(server.Release)
				read++
				der := o.marshal(server)
				if bytes.Equal(der, h.server) {
					same++
				}
				if d := len(der) - len(h.server); d == 5 || d == 6 {
					more++
				}
			} else if first == "none" {
				first = lastReason(err)
			}
			did, whole := offerKept(o, h, server)
			if did {
				resumed++
			} else if whole {
				missed++
			}
		}
		o.say(k.writer, "of %d read %d, the same bytes again %d, 5 or 6 bytes more %d, resumed %d, missed %d, error %s",
			len(k.handshakes), read, same, more, resumed, missed, first)
	}
}

// offerKept has a client offer a session at a server whose store has h's entry for it. It reports whether the session
// resumed, or else whether it was an ordinary miss, which leaves the entry alone. server is nil where this release
// cannot read h's sessions: then the client offers a session of its own, and the store has h's entry in its place.
func offerKept(o *observer, h keptHandshake, server *libssl.Session) (resumed, missed bool) {
	version, id := uint16(tls12), libssl.SessionID{}
	if server != nil {
		version, id = server.Version(), server.ID()
	}
	l := o.lab(version)
	l.store()
	var client *libssl.Session
	if server != nil {
		client = o.parse(h.client)
	} else {
		_, client = l.mustVisit(l.server, nil)
		id = client.ID()
	}
	l.trustPeer(h.server)
	l.put(id, h.server)
	l.reset()
	resumed, _ = l.mustVisit(l.server, client)
	return resumed && l.gets == 1,
		!resumed && l.gets == 1 && l.news == 1 && l.removes == 0 && bytes.Equal(l.entry(id), h.server)
}

// trustPeer has the server ask for client certificates and trust the one in a session, which is signed by itself.
func (l *lab) trustPeer(der []byte) {
	fields, err := parseFields(der)
	l.o.must(err)
	for _, f := range fields {
		if f.Class == asn1.ClassContextSpecific && f.Tag == fieldPeer {
			l.o.must(l.server.AddClientCAsPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Bytes})))
			l.o.must(l.server.SetVerify(libssl.VerifyPeer))
		}
	}
}

// lastReason is the reason of the youngest entry in the error's queue.
func lastReason(err error) string {
	var e *libssl.Error
	if !errors.As(err, &e) || len(e.Queue) == 0 {
		return "none"
	}
	return e.Queue[len(e.Queue)-1].Reason
}

// ---- F7.4 -------------------------------------------------------------------------

func theMark(o *observer) {
	l := o.lab(tls12)
	l.server.SetSessionCacheMode(libssl.CacheServer) // for a mark it has to be in there
	k := l.connect(l.server, nil)
	client := k.session()
	s, err := k.server.Session()
	o.must(err)
	o.atEnd(s.Release)
	k.closeClean()
	before := s.Resumable()
	removed, err := l.server.RemoveSession(s)
	o.must(err)
	o.mustBe(removed, "a cached session")
	der := o.marshal(s)
	o.say("resumable", "made %s, removed %s, decoded %s", yes(before), yes(s.Resumable()), yes(o.parse(der).Resumable()))

	l.store()
	l.put(s.ID(), der)
	resumed, _ := l.mustVisit(l.server, client)
	o.say("from a store", "get %d, resumed %s", l.gets, yes(resumed))
}

// ---- F7.5 -------------------------------------------------------------------------

func times(o *observer) {
	s := serverSession(o, tls12)
	now := time.Now().Add(-time.Second).Truncate(time.Second) // time(3) may enter a second later than time.Now
	o.must(s.SetTime(time.Unix(1000000000, 0)))
	o.must(s.SetTimeout(0))
	o.say("lifetime 0", "comes back as %d", o.parse(o.marshal(s)).Timeout()/time.Second)

	o.must(s.SetTimeout(1234 * time.Second))
	o.must(s.SetTime(time.Unix(0, 0)))
	made := o.parse(o.marshal(s)).Time()
	o.say("time 0", "comes back as now %s", yes(!made.Before(now) && made.Before(now.Add(time.Minute))))

	o.must(s.SetTime(now))
	o.must(s.SetTimeout(math.MaxInt64))
	huge := s.Timeout()
	o.say("the longest lifetime", "set and read %d, decoded %d", huge/time.Second, o.parse(o.marshal(s)).Timeout()/time.Second)

	fields := o.fields(o.marshal(s)) // Go cannot set that much
	o.say("634 years", "decoded %d", o.parse(fields.with(fieldLifetime, 20000000000).der()).Timeout()/time.Second)

	o.say("negative lifetime", "accepted %s", yes(s.SetTimeout(-time.Second) == nil))
}

// ---- F7.6 -------------------------------------------------------------------------

// parsing counts what became of inputs.
type parsing struct{ tried, read, silent int }

func (n *parsing) try(der []byte) {
	s, err := libssl.ParseSession(bytes.Clone(der)) // so that AddressSanitizer sees a read beyond
	s.Release()
	n.tried++
	if err == nil {
		n.read++
	} else if lastReason(err) == "none" {
		n.silent++
	}
}

func badInput(o *observer) {
	s := serverSession(o, tls13)
	der := o.marshal(s)
	var cut, changed, unknown parsing
	for n := 1; n < len(der); n++ {
		cut.try(der[:n])
	}
	o.say("cut anywhere", "read %d, without an error %d", cut.read, cut.silent)

	longer, err := libssl.ParseSession(append(bytes.Clone(der), make([]byte, 7)...))
	longer.Release()
	o.say("7 bytes more", "read %s", yes(err == nil))

	for i, was := range der {
		for value := range 256 {
			if byte(value) != was {
				der[i] = byte(value)
				changed.try(der)
			}
		}
		der[i] = was
	}
	o.say("a byte changed", "65 to 80%% read %s", yes(100*changed.read >= 65*changed.tried && 100*changed.read <= 80*changed.tried))

	fields := o.fields(der)
	unknown.try(fields.withPlain(placeCipher, []byte{0xff, 0xff}).der())
	o.say("unknown cipher", "read %s", yes(unknown.read > 0))
	o.say("its error", "none queued %s", yes(unknown.silent > 0))

	blank, err := libssl.WrapSession(cref.BlankSession(), libssl.Transfer)
	o.must(err)
	_, err = blank.MarshalBinary()
	blank.Release()
	o.say("without a cipher", "written %s", yes(err == nil))
	o.say("that error", "none queued %s", yes(lastReason(err) == "none"))
}

// ---- F7.7 -------------------------------------------------------------------------

// The client cannot ask for a fragment length, so the session in the store is given one.
func fragmentLength(o *observer, name string, version uint16) {
	l := o.lab(version)
	l.store()
	_, client := l.mustVisit(l.server, nil)
	fields := o.fields(l.onlyEntry())
	for id := range l.entries {
		l.put(id, fields.with(fieldFragment, 3).der())
	}
	k := l.open(l.server, "", client)
	ok := k.run()
	end, why := "client", k.clientErr
	if !strings.Contains(fmt.Sprint(k.serverErr), "alert") {
		end, why = "server", k.serverErr
	}
	o.say("not asked for again "+name, "ok %s, it ends at the %s with %s", yes(ok), end, lastReason(why))
	k.closeClean()
}

// ---- F7.8 -------------------------------------------------------------------------

func longestSecret(o *observer) {
	fields := o.fields(o.marshal(serverSession(o, tls13)))
	longest := 0
	for n := 1; n <= 1024; n++ {
		s, err := libssl.ParseSession(fields.withPlain(placeSecret, make([]byte, n)).der())
		if err == nil {
			longest = len(cref.MasterKey(s.Pointer()))
		}
		s.Release()
	}
	o.say("longest secret", "%d bytes", longest)
}
