package conformance

import "encoding/asn1"

// sessionFields are the elements of a Session in DER. With them a scenario makes sessions that no handshake makes.
type sessionFields []asn1.RawValue

// The elements that every session has are known by their place, the others by their tag.
const (
	placeVersion = 1
	placeCipher  = 2
	placeID      = 3
	placeSecret  = 4

	fieldTime      = 1
	fieldLifetime  = 2
	fieldPeer      = 3
	fieldIDContext = 4
	fieldTicket    = 10
	fieldFlags     = 13
	fieldEarlyData = 15
	fieldFragment  = 17
	fieldAppData   = 18
)

// fields is parseFields of a session that has to be sound.
func (o *observer) fields(der []byte) sessionFields {
	f, err := parseFields(der)
	o.must(err)
	return f
}

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

// octets returns the octet string in the field of that tag, or nil without such a field.
func (f sessionFields) octets(tag int) (b []byte) {
	for _, v := range f {
		if v.Class == asn1.ClassContextSpecific && v.Tag == tag {
			asn1.Unmarshal(v.Bytes, &b)
		}
	}
	return b
}

// withPlain is f with other bytes in the element at that place.
func (f sessionFields) withPlain(place int, b []byte) sessionFields {
	out := append(sessionFields(nil), f...)
	out[place] = asn1.RawValue{Tag: f[place].Tag, Bytes: b}
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
