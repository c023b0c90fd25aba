package conformance

import (
	"bytes"
	"encoding/asn1"
)

// The fields of a session's DER: the place of those without a tag, and 100 plus the tag of the others.
const (
	fieldVersion   = 1
	fieldCipher    = 2
	fieldID        = 3
	fieldSecret    = 4
	fieldIDContext = 104
	fieldTicket    = 110
	fieldFlags     = 113
)

// edit runs change on the content of a field, if der has it, and returns der with what change returns.
func edit(o *observer, der []byte, number int, change func(content []byte) []byte) []byte {
	var seq asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	o.must(err)
	var out []byte
	for i, rest := 0, seq.Bytes; len(rest) > 0; i++ {
		var v asn1.RawValue
		rest, err = asn1.Unmarshal(rest, &v)
		o.must(err)
		switch {
		case v.Class == asn1.ClassUniversal && i == number:
			v.FullBytes, v.Bytes = nil, change(v.Bytes)
		case v.Class == asn1.ClassContextSpecific && 100+v.Tag == number:
			var inner asn1.RawValue
			_, err = asn1.Unmarshal(v.Bytes, &inner)
			o.must(err)
			inner.FullBytes, inner.Bytes = nil, change(inner.Bytes)
			v.FullBytes = nil
			v.Bytes, err = asn1.Marshal(inner)
			o.must(err)
		}
		b, err := asn1.Marshal(v)
		o.must(err)
		out = append(out, b...)
	}
	seq.FullBytes, seq.Bytes = nil, out
	der, err = asn1.Marshal(seq)
	o.must(err)
	return der
}

func withField(o *observer, der []byte, number int, content []byte) []byte {
	return edit(o, der, number, func([]byte) []byte { return content })
}

// field is nil where der has no such field.
func field(o *observer, der []byte, number int) (content []byte) {
	edit(o, der, number, func(b []byte) []byte {
		content = bytes.Clone(b)
		return b
	})
	return content
}
