package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/ticket"
)

// ---- F2.10 to F2.14: bad answers ------------------------------------------------

// defect is one defect: of the answer, or of the server or hello that it meets.
type defect struct {
	name            string
	only            uint16                               // 0: in both versions
	before, between func(l *lab)                         // the full handshake; the two
	spoil           func(o *observer, der []byte) []byte // the answer
	hideEMS         bool                                 // in the second hello
	aboutCipher     bool
	// The store's entry has the defect by damage to its bytes. Otherwise its maker put it there, and seal and checksum
	// are right.
	byDamage bool
	// No handler could decode such a session: only bytes in a store can have the defect.
	storeOnly bool
}

var defects = []defect{
	{name: "sound"},
	{name: "other version", spoil: otherVersion},
	{name: "other id context", spoil: otherContext},
	{
		name:   "VERIFY_PEER, no id context",
		before: func(l *lab) { l.o.must(l.server.SetSessionIDContext(nil)) },
		between: func(l *lab) {
			l.o.must(l.server.SetSessionIDContext(nil))
			l.askForCertificates()
		},
	},
	{name: "expired", spoil: expire},
	{name: "EMS, hello without", only: tls12, hideEMS: true},
	{name: "no EMS, hello with", only: tls12, spoil: dropEMS},
	{name: "other id inside", spoil: otherID},
	{name: "wrong secret", spoil: otherSecret, byDamage: true},
	{name: "cipher not offered", before: clientAES128, spoil: otherCipher, aboutCipher: true, byDamage: true},
	{
		name: "cipher not offered, other hash", only: tls13, before: clientAES128,
		spoil: otherHash, aboutCipher: true, byDamage: true,
	},
	{name: "cipher disabled since", before: serverAES128, between: serverChaCha, aboutCipher: true},
	{
		name: "cipher disabled since, other hash", only: tls13, before: serverAES128,
		between: serverAES256, aboutCipher: true,
	},
	{name: "no cipher", spoil: noCipher, storeOnly: true},
	{name: "blank", spoil: func(*observer, []byte) []byte { return nil }, storeOnly: true},
}

func defectCalled(name string) defect {
	for _, d := range defects {
		if d.name == name {
			return d
		}
	}
	panic("no defect is called " + name)
}

func is13(o *observer, der []byte) bool {
	return bytes.Equal(o.fields(der)[placeVersion].Bytes, []byte{3, 4})
}

func otherVersion(o *observer, der []byte) []byte {
	other := []byte{3, 4}
	if is13(o, der) {
		other[1] = 3
	}
	return o.fields(der).withPlain(placeVersion, other).der()
}

func otherContext(o *observer, der []byte) []byte {
	return o.fields(der).with(fieldIDContext, []byte("another")).der()
}

func expire(o *observer, der []byte) []byte {
	s := o.parse(der)
	o.must(s.SetTime(time.Now().Add(-s.Timeout() - 10*time.Second)))
	return o.marshal(s)
}

func dropEMS(o *observer, der []byte) []byte {
	return o.fields(der).with(fieldFlags, 0).der()
}

var innocentID, _ = store.IDFromBytes([]byte("the id of an innocent session..."))

func otherID(o *observer, der []byte) []byte {
	return o.fields(der).withPlain(placeID, innocentID.Bytes()).der()
}

func otherSecret(o *observer, der []byte) []byte {
	fields := o.fields(der)
	secret := bytes.Clone(fields[placeSecret].Bytes)
	secret[0] ^= 1
	return fields.withPlain(placeSecret, secret).der()
}

func withCipher(o *observer, der []byte, in12, in13 uint16) []byte {
	c := in12
	if is13(o, der) {
		c = in13
	}
	return o.fields(der).withPlain(placeCipher, binary.BigEndian.AppendUint16(nil, c)).der()
}

// otherCipher has the hash of AES-128-GCM.
func otherCipher(o *observer, der []byte) []byte {
	return withCipher(o, der, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256)
}

func otherHash(o *observer, der []byte) []byte {
	return withCipher(o, der, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_AES_256_GCM_SHA384)
}

func noCipher(o *observer, der []byte) []byte { return withCipher(o, der, 0, 0) }

func (l *lab) useCiphers(ctx *libssl.Context, in12, in13 string) {
	l.o.must(ctx.SetCiphers(in12))
	l.o.must(ctx.SetCipherSuites(in13))
}

func clientAES128(l *lab) {
	l.useCiphers(l.client, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256")
}
func serverAES128(l *lab) {
	l.useCiphers(l.server, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256")
}
func serverAES256(l *lab) {
	l.useCiphers(l.server, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384")
}
func serverChaCha(l *lab) {
	l.useCiphers(l.server, "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_CHACHA20_POLY1305_SHA256")
}

// hideEMS replaces the number of the empty extended_master_secret extension by an unassigned one.
func hideEMS(p []byte) []byte {
	out := bytes.Clone(p)
	if i := bytes.Index(out, []byte{0x00, 0x17, 0x00, 0x00}); i >= 44 {
		out[i] = 0xfa
	}
	return out
}

func run(f func(l *lab), l *lab) {
	if f != nil {
		f(l)
	}
}

// met is the outcome of a defect.
type met struct {
	lab      *lab
	outcome  string
	innocent bool // remove was called with the other id
}

// meet has a get handler answer with the defect.
func (o *observer) meet(d defect, v protocolVersion) met {
	m := met{lab: o.lab(v.version)}
	l := m.lab
	l.store()
	run(d.before, l)
	_, offer := l.mustVisit(l.server, nil)
	if d.between != nil { // of another server: OpenSSL reads the ciphers in handshakes
		l.server = l.newServer()
		l.storeOn(l.server)
		d.between(l)
	}
	_, der := l.issued()
	if d.spoil != nil {
		der = d.spoil(o, der)
	}
	l.reset()
	var cipher uint16
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		s, err := libssl.ParseSession(der)
		if err != nil {
			return nil, libssl.Copy
		}
		l.hits++
		cipher = s.CipherSuite()
		cref.Watch(s.Pointer())
		return s, libssl.Transfer
	}
	l.onRemove = func(_ *libssl.Context, s *libssl.Session) { m.innocent = s.ID() == innocentID }
	k := l.open(l.server, "", offer)
	if d.hideEMS {
		k.wire.clientHook = hideEMS
	}
	ok := k.run()
	m.outcome = k.outcome(ok)
	if d.aboutCipher && m.outcome == "resumed" {
		m.outcome += " with the answer's cipher " + yes(k.server.ConnectionState().CipherSuite == cipher)
	}
	k.closeClean()
	o.mustBe(l.hits == 1, "one answer")
	return m
}

func (o *observer) badAnswer(d defect, v protocolVersion) {
	m := o.meet(d, v)
	o.say(v.named(d.name), "%s, remove %d, timeouts %d, given back %s", m.outcome, m.lab.removes,
		m.lab.server.Stats().Timeouts, yes(cref.WatchedIsGone()))
}

func badAnswers(o *observer) {
	for _, d := range defects {
		for _, v := range bothVersions {
			if d.only != 0 && d.only != v.version {
				continue
			}
			if !d.storeOnly {
				o.badAnswer(d, v)
			}
			o.badEntry(d, v)
		}
	}
	forged := defectCalled("wrong secret")
	forged.byDamage = false
	for _, v := range bothVersions {
		o.say(v.named("plaintext store, wrong secret forged"), "%s", o.meetInStore(forged, v, nil))
	}
}

// answerUseless has a get handler answer with a session that only C can make, and pass to Go.
func (o *observer) answerUseless(version uint16, useless func(der []byte) (*libssl.Session, error)) {
	l, offer := o.labWithSession(version, external)
	_, der := l.issued()
	l.answer = func(*libssl.SSL, libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		s, err := useless(der)
		if err != nil {
			return nil, libssl.Copy
		}
		o.atEnd(s.Release)
		return s, libssl.Transfer
	}
	k := l.open(l.server, "", offer)
	came := k.outcome(k.run())
	k.closeClean()
	o.mustBe(l.gets == 1, "one question")
	o.say("useless", "%s, refused %s", came, yes(len(l.misuse) == 1))
}

func withoutCipher(der []byte) (*libssl.Session, error) {
	s, err := libssl.ParseSession(der)
	if err == nil && !cref.DropCipher(s.Pointer()) {
		err = errors.New("the cipher stays")
	}
	return s, err
}

func blankSession([]byte) (*libssl.Session, error) {
	return libssl.WrapSession(cref.BlankSession(), libssl.Transfer)
}

// badEntry has a store answer with the defect, in plaintext and sealed.
func (o *observer) badEntry(d defect, v protocolVersion) {
	plaintext, sealed := o.meetInStore(d, v, nil), o.meetInStore(d, v, o.ring())
	text := plaintext
	if plaintext != sealed {
		text = "in plaintext " + plaintext + ", sealed " + sealed
	}
	o.say(v.named("store, "+d.name), "%s", text)
}

func (o *observer) meetInStore(d defect, v protocolVersion, ring *ticket.Ring) string {
	l := o.lab(v.version)
	o.must(l.server.SetSessionIDContext(nil)) // the store's own
	run(d.before, l)
	sh := &shelf{}
	sc := o.useStore(l.server, sh, ring, false)

	k := l.open(l.server, "", nil)
	k.ranWell()
	offer := k.session()
	own, err := k.server.Session()
	o.must(err)
	defer own.Release()
	k.closeClean()
	rec := sh.only(o)
	o.mustBe(own.ID() == rec.ID, "the session that was stored")
	der := o.marshal(own)
	good := entry(ring, rec.ID, der)
	o.mustBe(len(good) == len(rec.Data), "the form of the entries")
	if d.between != nil {
		o.must(sc.Close(context.Background()))
		l.server = l.newServer()
		o.must(l.server.SetSessionIDContext(nil))
		d.between(l)
		sc = o.useStore(l.server, sh, ring, false)
	}
	if d.spoil != nil {
		bad := d.spoil(o, der)
		rec.Data = entry(ring, rec.ID, bad)
		if d.byDamage {
			rec.Data = damaged(good, der, bad)
		}
		o.must(sh.Put(context.Background(), rec))
	} else {
		rec.Data = good
		o.must(sh.Put(context.Background(), rec))
	}

	k = l.open(l.server, "", offer)
	if d.hideEMS {
		k.wire.clientHook = hideEMS
	}
	came := k.outcome(k.run())
	k.closeClean()
	o.must(sc.Close(context.Background()))
	s := sc.Stats()
	return fmt.Sprintf("%s, hits %d, rejected %d, undecodable %d, deleted %d", came, s.Hits,
		s.Rejected, s.Undecodable, sh.count(&sh.deletes))
}

// askForCertificates has the server ask for client certificates, of which the client has none.
func (l *lab) askForCertificates() {
	pem, err := cref.CertificatePEM()
	l.o.must(err)
	l.o.must(l.server.AddClientCAsPEM(pem))
	l.o.must(l.server.SetVerify(libssl.VerifyPeer))
}

func (o *observer) verifyWithStore(v protocolVersion) {
	l := o.lab(v.version)
	o.must(l.server.SetSessionIDContext(nil))
	l.askForCertificates()
	o.useStore(l.server, &shelf{}, o.ring(), false)
	_, offer := l.mustVisit(l.server, nil)
	k := l.open(l.server, "", offer)
	came := k.ranWell()
	own, err := k.server.Session()
	o.must(err)
	n := len(own.IDContext())
	own.Release()
	k.closeClean()
	o.say(v.named("VERIFY_PEER and a store"), "%s, id context %d bytes", came, n)
}
