package conformance

import (
	"embed"
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
// are read, or they would have expired. The certificates in the files were given 2049 as their end, which their signatures
// do not cover.
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
