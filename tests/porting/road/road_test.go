// Package road_test walks the road of docs/porting.md: each step of examples/port-from-c is a program that passes the
// same test, which knows the server by its port only. The test asserts the C server's defects for the steps that keep
// them, and for each defect the step that removes it.
package road_test

import (
	"crypto/tls"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The first step without each defect of the C server.
const (
	ticketClientsAreAnswered = 3
	clientCertificatesResume = 3
	evictionSparesTheTable   = 3
	expiredEntriesGo         = 3
	processesShare           = 4
	errorsSpareTheSession    = 5
)

func TestRoad(t *testing.T) {
	p := newPKI(t)
	files := []string{p.certFile, p.keyFile}
	ids := p.client(t, tls.VersionTLS12, false)
	tickets := p.client(t, tls.VersionTLS12, true)
	tls13 := p.client(t, tls.VersionTLS13, true)

	programs := build(t)
	for n, name := range steps {
		t.Run(name, func(t *testing.T) {
			run := func(t *testing.T, args ...string) *server {
				return start(t, filepath.Join(programs, name), append(args, files...)...)
			}

			t.Run("1.2 by id", func(t *testing.T) {
				s := run(t)
				first, session := s.visit(ids, nil)
				require.Equal(t, status{version: "TLSv1.2", sessions: 1}, first)
				for i := range 3 {
					again, _ := s.visit(ids, session)
					require.Equal(t, status{version: "TLSv1.2", resumed: true, sessions: 1, answered: i + 1}, again)
				}
			})

			// F1.4: with tickets on, OpenSSL never shows the callbacks the sessions of clients that know them.
			t.Run("1.2 by a client that knows tickets", func(t *testing.T) {
				s := run(t)
				first, session := s.visit(tickets, nil)
				again, _ := s.visit(tickets, session)
				require.True(t, again.resumed)
				if n < ticketClientsAreAnswered {
					require.Zero(t, first.sessions)
					require.Zero(t, again.answered)
				} else {
					require.Equal(t, 1, first.sessions)
					require.Equal(t, 1, again.answered)
				}
			})

			// F1.5: in TLS 1.3 it shows them all, and asks for none.
			t.Run("1.3", func(t *testing.T) {
				s := run(t)
				first, session := s.visit(tls13, nil)
				require.Equal(t, status{version: "TLSv1.3", sessions: 2}, first)
				again, _ := s.visit(tls13, session)
				require.True(t, again.resumed)
				if n < ticketClientsAreAnswered {
					require.Zero(t, again.answered)
				} else {
					require.Equal(t, 1, again.answered)
				}
			})

			// F1.7, F2.12: no id context.
			t.Run("client certificates", func(t *testing.T) {
				s := run(t, "-a", p.caFile)
				first, session := s.visit(ids, nil)
				again, _ := s.visit(ids, session)
				_, session13 := s.visit(tls13, nil)
				c := s.connect(tls13, session13)
				st, err := c.status()
				if n < clientCertificatesResume {
					require.Zero(t, first.sessions)
					require.False(t, again.resumed)
					require.Error(t, err, "not even a full handshake")
					c.gone()
				} else {
					require.Equal(t, 1, first.sessions)
					require.True(t, again.resumed)
					require.NoError(t, err)
					require.True(t, st.resumed)
					c.leave()
				}
			})

			// F3.2: what OpenSSL evicts from its own small cache is reported as removed.
			t.Run("many sessions", func(t *testing.T) {
				s := run(t)
				_, session := s.visit(ids, nil)
				var last status
				for range 7 {
					last, _ = s.visit(ids, nil)
				}
				again, _ := s.visit(ids, session)
				if n < evictionSparesTheTable {
					require.LessOrEqual(t, last.sessions, 4)
					require.False(t, again.resumed)
				} else {
					require.Equal(t, 8, last.sessions)
					require.True(t, again.resumed)
				}
			})

			// F3.3, F5.5: OpenSSL notices that a session has expired only when a client offers it.
			t.Run("expiry", func(t *testing.T) {
				s := run(t, "-t", "1")
				s.visit(ids, nil)
				_, session := s.visit(ids, nil)
				var last status
				require.Eventually(t, func() bool {
					last, _ = s.visit(ids, session)
					return !last.resumed
				}, time.Minute, 100*time.Millisecond, "a session outlives its lifetime")
				if n < expiredEntriesGo {
					require.Equal(t, 2, last.sessions, "the new one, and one that no client can resume")
				} else {
					require.LessOrEqual(t, last.sessions, 1)
				}
			})

			// F3.1: SSL_free without SSL_shutdown takes the session along.
			t.Run("an error", func(t *testing.T) {
				s := run(t)
				_, session := s.visit(ids, nil)
				c := s.connect(ids, session)
				st, err := c.status()
				require.NoError(t, err)
				require.True(t, st.resumed)
				c.fail()
				s.resumes(ids, session, n >= errorsSpareTheSession)
			})

			// The same where it is the client who leaves without a word.
			t.Run("a client that hangs up", func(t *testing.T) {
				s := run(t)
				_, session := s.visit(ids, nil)
				c := s.connect(ids, session)
				_, err := c.status()
				require.NoError(t, err)
				c.hangUp()
				s.resumes(ids, session, n >= errorsSpareTheSession)
			})

			t.Run("two processes", func(t *testing.T) {
				var args []string
				if n >= processesShare {
					args = []string{"-s", filepath.Join(t.TempDir(), "sessions.db")}
				}
				a, b := run(t, args...), run(t, args...)
				_, session := a.visit(ids, nil)
				there, _ := b.visit(ids, session)
				_, session13 := a.visit(tls13, nil)
				there13, _ := b.visit(tls13, session13)
				assert.Equal(t, n >= processesShare, there.resumed)
				assert.Equal(t, n >= processesShare, there13.resumed)
			})
		})
	}
}
