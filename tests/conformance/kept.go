package conformance

import (
	"embed"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/libssl-go/libssl/tests/internal/cref"
)

// keptFiles hold sessions of handshakes as each release wrote them, "3.5.pem": the server's and the client's of one
// handshake, and so on. TestKept_IsWhatThisReleaseWrites makes them.
//
//go:embed testdata/sessions/*.pem
var keptFiles embed.FS

const keptFolder = "testdata/sessions"

// kept is what one release wrote.
type kept struct {
	writer     string // the file's name
	handshakes []keptHandshake
}

// keptHandshake are its sessions in DER, made now: the release's bytes but for the time, which counts from when they
// are read, or they would have expired.
type keptHandshake struct{ server, client []byte }

var keptSessions = readKept(time.Now())

func init() {
	for _, k := range keptSessions {
		for _, h := range k.handshakes {
			cref.KeepSession(k.writer, h.server, h.client)
		}
	}
}

func readKept(now time.Time) (all []kept) {
	files, err := keptFiles.ReadDir(keptFolder)
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		text, err := keptFiles.ReadFile(keptFolder + "/" + f.Name())
		if err != nil {
			panic(err)
		}
		k := kept{writer: strings.TrimSuffix(f.Name(), ".pem")}
		next := func() []byte {
			block, rest := pem.Decode(text)
			if text = rest; block == nil {
				return nil
			}
			fields, err := parseFields(block.Bytes)
			if err != nil {
				panic(fmt.Sprintf("%s: %v", f.Name(), err))
			}
			return fields.with(fieldTime, now.Unix()).der()
		}
		for server := next(); server != nil; server = next() {
			k.handshakes = append(k.handshakes, keptHandshake{server, next()})
		}
		all = append(all, k)
	}
	return all
}

// sessionFields are the elements of a session's DER, so that sessions can be made that no handshake makes.
type sessionFields []asn1.RawValue

// The elements that every session has, by their place, and tags of others.
const (
	placeCipher = 2
	placeSecret = 4

	fieldTime      = 1
	fieldLifetime  = 2
	fieldEarlyData = 15
	fieldFragment  = 17
	fieldAppData   = 18
)

func parseFields(der []byte) (f sessionFields, err error) {
	var whole asn1.RawValue
	if _, err := asn1.Unmarshal(der, &whole); err != nil {
		return nil, err
	}
	for rest := whole.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return nil, err
		}
		f = append(f, v)
	}
	return f, nil
}

// with is f with another value in the field of that tag.
func (f sessionFields) with(tag int, value any) sessionFields {
	v := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: mustMarshal(value)}
	var out sessionFields
	for i, old := range f {
		if isTagged := old.Class == asn1.ClassContextSpecific; isTagged && old.Tag >= tag {
			if old.Tag == tag {
				i++
			}
			return append(append(out, v), f[i:]...)
		}
		out = append(out, old)
	}
	return append(out, v)
}

// withPlain is f with other bytes in the octet string at that place.
func (f sessionFields) withPlain(place int, b []byte) sessionFields {
	out := append(sessionFields(nil), f...)
	out[place] = asn1.RawValue{Tag: asn1.TagOctetString, Bytes: b}
	return out
}

func (f sessionFields) der() []byte {
	var body []byte
	for _, v := range f {
		body = append(body, mustMarshal(v)...)
	}
	return mustMarshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body})
}

func mustMarshal(value any) []byte {
	b, err := asn1.Marshal(value)
	if err != nil {
		panic(err)
	}
	return b
}
