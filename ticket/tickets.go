package ticket

import "time"

// TicketKey is what a key of a ring gives to a TLS library that seals tickets itself: a name to put in front, a key for
// AES-256-CBC and one for HMAC-SHA256.
type TicketKey struct {
	Name      [16]byte
	AES, HMAC [32]byte
	NotBefore time.Time // it seals from then on; zero: always
}

// TicketKeys returns the keys to seal and open tickets with, newest first: the newest whose time has come seals. They are
// derived from the ring's and of no use for what Seal sealed. The caller wipes them.
func (r *Ring) TicketKeys() ([]TicketKey, error) {
	var all []TicketKey
	for _, k := range r.keys() {
		t := TicketKey{NotBefore: k.notBefore}
		for _, part := range []struct {
			info string
			out  []byte
		}{
			{"libssl ticket 1 name", t.Name[:]},
			{"libssl ticket 1 AES", t.AES[:]},
			{"libssl ticket 1 HMAC", t.HMAC[:]},
		} {
			b, err := k.derive(part.info, len(part.out))
			if err != nil {
				return nil, err
			}
			copy(part.out, b)
			clear(b)
		}
		all = append(all, t)
	}
	return all, nil
}
