package ticket

import "time"

// TicketKey holds the values that a TLS library needs to seal tickets itself, derived from one key of a ring: the name in
// front of each ticket, a key for AES-256-CBC and one for HMAC-SHA256.
type TicketKey struct {
	Name      [16]byte
	AES, HMAC [32]byte
	NotBefore time.Time // seals from then on; zero: always
}

// TicketKeys returns the keys that seal and open tickets, newest first. The newest whose time has come seals. They are
// derived from the keys of the ring and cannot open envelopes of Seal. The caller wipes them after use.
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
