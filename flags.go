package libssl

// #include "bridge.h"
import "C"

// Role says which side of a handshake a Context is for.
type Role uint8

const (
	ServerRole Role = iota
	ClientRole
)

// VerifyMode says what a peer's certificate is asked for. Corresponds to the
// flags of SSL_CTX_set_verify(3).
type VerifyMode int

const (
	// VerifyNone: a server asks for no certificate, a client accepts any.
	VerifyNone VerifyMode = C.SSL_VERIFY_NONE
	// VerifyPeer: what the peer sends must verify; a client may send nothing.
	VerifyPeer VerifyMode = C.SSL_VERIFY_PEER
	// VerifyRequirePeer: a client must send a certificate that verifies.
	VerifyRequirePeer VerifyMode = C.SSL_VERIFY_PEER | C.SSL_VERIFY_FAIL_IF_NO_PEER_CERT
)

// Options are the bits of SSL_CTX_set_options(3). A bit that the OpenSSL at
// hand does not know is 0: setting it changes nothing.
type Options uint64

const (
	OpNoTicket                           Options = C.SSL_OP_NO_TICKET
	OpNoAntiReplay                       Options = C.SSL_OP_NO_ANTI_REPLAY
	OpNoRenegotiation                    Options = C.SSL_OP_NO_RENEGOTIATION // on in contexts made here
	OpAllowClientRenegotiation           Options = C.SSL_OP_ALLOW_CLIENT_RENEGOTIATION
	OpNoSessionResumptionOnRenegotiation Options = C.SSL_OP_NO_SESSION_RESUMPTION_ON_RENEGOTIATION
	OpCipherServerPreference             Options = C.SSL_OP_CIPHER_SERVER_PREFERENCE
	OpPrioritizeChaCha                   Options = C.SSL_OP_PRIORITIZE_CHACHA
	OpNoEncryptThenMAC                   Options = C.SSL_OP_NO_ENCRYPT_THEN_MAC
	OpNoExtendedMasterSecret             Options = C.SSL_OP_NO_EXTENDED_MASTER_SECRET
	OpNoTLS12                            Options = C.SSL_OP_NO_TLSv1_2
	OpNoTLS13                            Options = C.SSL_OP_NO_TLSv1_3
	OpAllowNoDHEKex                      Options = C.SSL_OP_ALLOW_NO_DHE_KEX
	OpMiddleboxCompat                    Options = C.SSL_OP_ENABLE_MIDDLEBOX_COMPAT
	// OpIgnoreUnexpectedEOF makes the end of the stream without a close_notify
	// io.EOF. Anyone on the path can cut such a stream: use it only where the
	// application protocol marks its own end.
	OpIgnoreUnexpectedEOF Options = C.SSL_OP_IGNORE_UNEXPECTED_EOF
)

// CacheMode is the mode of SSL_CTX_set_session_cache_mode(3).
type CacheMode int

const (
	CacheOff              CacheMode = C.SSL_SESS_CACHE_OFF
	CacheClient           CacheMode = C.SSL_SESS_CACHE_CLIENT
	CacheServer           CacheMode = C.SSL_SESS_CACHE_SERVER
	CacheNoAutoClear      CacheMode = C.SSL_SESS_CACHE_NO_AUTO_CLEAR
	CacheNoInternalLookup CacheMode = C.SSL_SESS_CACHE_NO_INTERNAL_LOOKUP
	CacheNoInternalStore  CacheMode = C.SSL_SESS_CACHE_NO_INTERNAL_STORE
	CacheNoInternal       CacheMode = C.SSL_SESS_CACHE_NO_INTERNAL
	CacheUpdateTime       CacheMode = C.SSL_SESS_CACHE_UPDATE_TIME // OpenSSL 3.0 and later
)

// CopyFlag is the answer of a get handler about its reference: C's *copy.
type CopyFlag uint8

const (
	// Copy is C's *copy = 1, what OpenSSL presets: it takes a reference of its
	// own and the handler's stays the handler's.
	Copy CopyFlag = iota
	// Transfer is C's *copy = 0: the handler's reference becomes OpenSSL's and
	// the *Session is spent.
	Transfer
)

func cbool(b bool) C.int {
	if b {
		return 1
	}
	return 0
}
