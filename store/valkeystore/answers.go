package valkeystore

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/libssl-go/libssl/store"
)

// The client library trusts the server. A negative length, an answer to no command or an event without an address panics on a
// goroutine of the library, which ends the process. It also allocates any length that the server announces. checkedConn
// is therefore between the library and the network. It hands over whole messages only, and breaks the connection at one
// that the library could not bear.

// Bounds of one message.
const (
	maxLine     = 4 << 10             // of a line
	maxRecord   = store.MaxData + 256 // of the answer to GET and GETDEL; a longer value is no record
	maxSkipped  = 1 << 20             // of a value that is no record and is passed over
	maxList     = 256 << 10           // of a page of keys, or the nodes of a cluster
	maxOther    = 8 << 10             // of any other message
	maxElements = 8 << 10             // in all arrays of a message together; the library takes 40 bytes for each
	maxNesting  = 8

	// maxUnanswered is how many commands may wait for an answer. The library waits for room before it sends more.
	maxUnanswered = 1 << 16
)

var errProtocol = errors.New("the server does not keep to the protocol")

func protocolErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// checkedConn passes on what the server sends only as far as it answers the commands that were sent.
type checkedConn struct {
	net.Conn
	commands commandReader // of Write
	answers  answerReader  // of Read
}

func newCheckedConn(nc net.Conn) *checkedConn {
	c := &checkedConn{Conn: nc}
	q := new(questions)
	c.commands.asked, c.answers.asked = q, q
	return c
}

func (c *checkedConn) Write(p []byte) (int, error) {
	if err := c.commands.read(p); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *checkedConn) Read(p []byte) (int, error) {
	a := &c.answers
	for {
		if n := copy(p, a.buf[a.given:a.whole]); n > 0 {
			a.give(n)
			return n, nil
		}
		if a.err != nil {
			return 0, a.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		a.buf = slices.Grow(a.buf, maxLine)
		n, err := c.Conn.Read(a.buf[len(a.buf):cap(a.buf)])
		a.buf = a.buf[:len(a.buf)+n]
		a.drop(n)
		if a.err = a.scan(); a.err == nil {
			a.err = err
		}
	}
}

// question is what the answer to a command may be.
type question struct {
	kind  questionKind
	count int // of askSubscribe: channels that are not confirmed yet
}

type questionKind uint8

const (
	askOther questionKind = iota
	askRecord
	askList
	askAddress     // of the server behind sentinels
	askPing        // the library compares the answer
	askSubscribe   // answered by a push message for each channel
	askUnsubscribe // answered by push messages, and by an error or not at all
)

// questions holds the commands that wait for their answer, in order.
type questions struct {
	mu  sync.Mutex
	all []question
}

func (q *questions) push(k question) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.all) == maxUnanswered {
		return errors.New("too many commands wait for an answer")
	}
	q.all = append(q.all, k)
	return nil
}

// commandReader notes the commands in a stream of arrays of strings, the only form in which the library sends them.
type commandReader struct {
	asked *questions
	line  []byte    // of an unfinished line
	skip  int       // bytes of an argument that are still to come, with its line end
	count int       // of arguments
	named int       // how many of names are complete
	names [2][]byte // the beginnings of the first two arguments
}

// maxName is more than the length of every name that command compares.
const maxName = 32

func (r *commandReader) read(p []byte) error {
	for len(p) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(p))
			if r.named < len(r.names) {
				name := &r.names[r.named]
				*name = append(*name, p[:min(n, maxName-len(*name))]...)
			}
			p, r.skip = p[n:], r.skip-n
			if r.skip == 0 {
				if err := r.argument(); err != nil {
					return err
				}
			}
			continue
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.line = append(r.line, p...)
			return nil
		}
		line := append(r.line, p[:i+1]...)
		p, r.line = p[i+1:], line[:0]
		n, err := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
		switch {
		case err != nil || n < 0:
			return errors.New("the client library sends an unknown form of command")
		case line[0] == '*':
			r.count, r.named = n, 0
			r.names[0], r.names[1] = r.names[0][:0], r.names[1][:0]
		default:
			r.skip = n + len("\r\n")
		}
	}
	return nil
}

// argument notes the end of an argument, and the command when its first two arguments are known.
func (r *commandReader) argument() error {
	need := min(r.count, len(r.names))
	if r.named == need {
		return nil
	}
	r.names[r.named] = bytes.TrimSuffix(r.names[r.named], []byte("\r\n"))
	if r.named++; r.named < need {
		return nil
	}
	return r.command()
}

func (r *commandReader) command() error {
	k := question{kind: askOther}
	switch name, second := string(r.names[0]), string(r.names[1]); {
	case name == "GET" || name == "GETDEL":
		k.kind = askRecord
	case name == "SENTINEL" && second == "GET-MASTER-ADDR-BY-NAME":
		k.kind = askAddress
	case name == "SCAN" || name == "CLUSTER" || name == "SENTINEL" || name == "ROLE":
		k.kind = askList
	case name == "PING":
		k.kind = askPing
	case name == "SUBSCRIBE":
		k = question{askSubscribe, r.count - 1}
	case name == "UNSUBSCRIBE":
		k.kind = askUnsubscribe
	case name == "HELLO" && second == "2":
		return errors.New("the server does not know RESP3: it must be Valkey, or Redis from version 6.2 on")
	}
	return r.asked.push(k)
}

// answerReader scans messages. Those before whole are complete and may be given to the library.
type answerReader struct {
	asked *questions
	buf   []byte
	given int // bytes that Read has returned
	whole int // end of the last complete message
	pos   int // up to here the message after it was scanned
	skip  int // bytes that are still to come and are passed over
	err   error

	limit    int   // of the message
	elements int   // of its arrays
	left     []int // elements that are still to come, by level of nesting
	first    byte  // its type
	count    int   // how many elements it has; -1: it is no array
	texts    [3]span
	kept     int // of texts
}

// span is a part of the message.
type span struct{ begin, end int }

// drop passes over bytes of the n that were read last.
func (a *answerReader) drop(n int) {
	n = min(n, a.skip)
	if n > 0 { // then nothing else is in the buffer behind the message
		a.skip -= n
		a.buf = slices.Delete(a.buf, a.pos, a.pos+n)
	}
}

// noRecord replaces the value whose first line is at pos and has length i+1 by one that is too short to be a record. The value may be
// planted, and other calls share the connection.
func (a *answerReader) noRecord(i, n int) {
	const short = "$0\r\n\r\n"
	rest := a.buf[a.pos+i+1:]
	a.skip = n + len("\r\n")
	dropped := min(a.skip, len(rest))
	a.skip -= dropped
	rest = rest[dropped:]
	copy(a.buf[a.pos:], short)
	a.buf = append(a.buf[:a.pos+len(short)], rest...)
}

// give notes that n bytes were returned.
func (a *answerReader) give(n int) {
	a.given += n
	if a.given < a.whole {
		return
	}
	rest := copy(a.buf, a.buf[a.whole:])
	clear(a.buf[rest:]) // records may be in plaintext
	a.pos -= a.whole
	a.buf, a.given, a.whole = a.buf[:rest], 0, 0
	if rest == 0 && cap(a.buf) > 4*maxLine {
		a.buf = nil
	}
}

// scan goes on with the message after the last complete one, and with those that follow.
func (a *answerReader) scan() error {
	for a.pos < len(a.buf) {
		line := a.buf[a.pos:]
		i := bytes.IndexByte(line[:min(len(line), maxLine)], '\n')
		if i < 0 && len(line) < maxLine {
			break
		}
		if i < len("+\r") || line[i-1] != '\r' {
			return protocolErrorf("a line is too long or has no end")
		}
		if len(a.left) == 0 {
			if err := a.begin(line[0]); err != nil {
				return err
			}
			if n, err := strconv.Atoi(string(line[1 : i-1])); err == nil && a.limit == maxRecord && line[0] == '$' && n > maxRecord && n <= maxSkipped {
				a.noRecord(i, n)
				continue
			}
		}
		used, err := a.element(line, i)
		if err != nil {
			return err
		}
		if used == 0 {
			break // the rest is still to come
		}
		if a.pos += used; a.pos-a.whole > a.limit {
			return protocolErrorf("an answer of more than %d bytes", a.limit)
		}
		if len(a.left) > 0 {
			continue
		}
		if err := a.judge(); err != nil {
			return err
		}
		a.whole = a.pos
	}
	return nil
}

// begin prepares for a message.
func (a *answerReader) begin(first byte) error {
	a.first, a.elements, a.count, a.kept = first, 0, -1, 0
	a.limit = maxOther
	q, ok := a.asked.head()
	switch {
	case first == '>':
	case !ok:
		return protocolErrorf("an answer to no command")
	case q.kind == askRecord:
		a.limit = maxRecord
	case q.kind == askList:
		a.limit = maxList
	}
	return nil
}

// element scans one value, or the head of an array, whose first line ends at i, and returns its length; 0 if it is not complete.
func (a *answerReader) element(line []byte, i int) (int, error) {
	body, used := line[1:i-1], i+1
	switch line[0] {
	case '+', '-', ',', '(':
		a.keep(1, i-1)
	case ':':
		if _, err := strconv.ParseInt(string(body), 10, 64); err != nil {
			return 0, protocolErrorf("a malformed number")
		}
		a.keep(0, 0)
	case '_', '#':
		if len(body) > 1 || line[0] == '_' && len(body) > 0 || line[0] == '#' && len(body) == 0 {
			return 0, protocolErrorf("a malformed value")
		}
		a.keep(0, 0)
	case '$', '=':
		n, err := a.length(line[0], body)
		if err != nil {
			return 0, err
		}
		if n >= 0 {
			if used+n+2 > len(line) {
				return 0, nil
			}
			if string(line[used+n:used+n+2]) != "\r\n" {
				return 0, protocolErrorf("a string longer than it says")
			}
			a.keep(used, used+n)
			used += n + 2
		} else {
			a.keep(0, 0)
		}
	case '*', '~', '%', '>':
		n, err := a.length(line[0], body)
		if err != nil {
			return 0, err
		}
		return used, a.array(line[0], n)
	default:
		return 0, protocolErrorf("a message of type %q", line[0])
	}
	a.end()
	return used, nil
}

// length reads the length of a string or array, -1 for RESP2's null.
func (a *answerReader) length(typ byte, digits []byte) (int, error) {
	if string(digits) == "-1" && (typ == '$' || typ == '*') {
		return -1, nil
	}
	n, err := strconv.ParseUint(string(digits), 10, 31)
	if err != nil || int(n) > a.limit {
		return 0, protocolErrorf("a length of %.20q", digits)
	}
	return int(n), nil
}

// array begins an array of n elements, or pairs of them.
func (a *answerReader) array(typ byte, n int) error {
	if typ == '%' {
		n *= 2
	}
	if n > 0 {
		a.elements += n
	}
	if a.elements > maxElements || len(a.left) == maxNesting || typ == '>' && len(a.left) > 0 {
		return protocolErrorf("too many elements or levels")
	}
	if len(a.left) == 0 {
		a.count = n
	} else {
		a.keep(0, 0)
	}
	if n > 0 {
		a.left = append(a.left, n)
	} else {
		a.end()
	}
	return nil
}

// keep notes a part of the line at pos that judge may want to see: the text of a message without elements, and the first
// elements of an array.
func (a *answerReader) keep(begin, end int) {
	if len(a.left) <= 1 && a.kept < len(a.texts) {
		a.texts[a.kept] = span{a.pos - a.whole + begin, a.pos - a.whole + end}
		a.kept++
	}
}

// text returns a part of the message that was kept, as far as it is of use.
func (a *answerReader) text(n int) string {
	if n >= a.kept {
		return ""
	}
	message := a.buf[a.whole:]
	return string(message[a.texts[n].begin:min(a.texts[n].end, a.texts[n].begin+maxLine)])
}

// end notes the end of an element.
func (a *answerReader) end() {
	for n := len(a.left); n > 0; n-- {
		if a.left[n-1]--; a.left[n-1] > 0 {
			return
		}
		a.left = a.left[:n-1]
	}
}

// head returns the question that the next answer is for.
func (q *questions) head() (question, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.all) == 0 {
		return question{}, false
	}
	return q.all[0], true
}

// answered removes the first n questions.
func (q *questions) answered(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = q.all[min(n, len(q.all)):]
	if len(q.all) == 0 {
		q.all = nil
	}
}

// confirmed notes a push message of a subscription, and reports whether one was due.
func (q *questions) confirmed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.all) == 0 || q.all[0].kind != askSubscribe {
		return false
	}
	if q.all[0].count--; q.all[0].count <= 0 {
		q.all = q.all[1:]
	}
	return true
}

// judge decides whether the library can bear a complete message.
func (a *answerReader) judge() error {
	if a.first == '>' {
		return a.judgePush()
	}
	q, _ := a.asked.head()
	failed, pong := a.first == '-', false
	if failed || q.kind == askPing || q.kind == askUnsubscribe {
		line := a.text(0)
		if failed && !redirectsSomewhere(line) {
			return protocolErrorf("a redirection to nowhere")
		}
		pong = a.first == '+' && line == "PONG" || failed &&
			(strings.HasPrefix(line, "LOADING") || strings.HasPrefix(line, "BUSY") || strings.Contains(line, "'ping'"))
	}
	n, good := 1, true
	switch q.kind {
	case askAddress:
		good = a.count == 2 || a.count == -1
	case askPing:
		good = pong
	case askSubscribe:
		good = failed // and not QUEUED
	case askUnsubscribe:
		if good = pong || failed; pong {
			n = 2 // with the ping that the library sends after it
		}
	}
	if !good {
		return protocolErrorf("an answer to another command")
	}
	a.asked.answered(n)
	return nil
}

// redirectsSomewhere reports whether a redirecting error has the address that the library takes from it.
func redirectsSomewhere(line string) bool {
	for prefix, fields := range map[string]int{"MOVED": 3, "ASK": 3, "REDIRECT": 2} {
		if strings.HasPrefix(line, prefix) {
			return len(strings.Split(line, " ")) >= fields
		}
	}
	return true
}

// judgePush accepts the events of sentinels, which the library subscribes to.
func (a *answerReader) judgePush() error {
	switch kind, channel, message := a.text(0), a.text(1), a.text(2); kind {
	case "subscribe":
		if a.count == 3 && a.asked.confirmed() {
			return nil
		}
	case "unsubscribe":
		if q, ok := a.asked.head(); !ok || q.kind != askSubscribe {
			return nil
		}
	case "message":
		fields := 4
		if channel == "+switch-master" {
			fields = 5
		}
		if a.count == 3 && len(strings.Split(message, " ")) >= fields {
			return nil
		}
	}
	return protocolErrorf("a push message out of turn")
}
