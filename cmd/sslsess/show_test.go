package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sessionFiles writes a session file for each version and format.
func sessionFiles(t *testing.T) map[string]string {
	t.Helper()
	f := newFleet(t)
	n := f.serve()
	files := map[string]string{}
	for _, version := range []string{"1.2", "1.3"} {
		v := f.call(f.client(version), n.addr, nil)
		require.NotNil(t, v.Session)
		text, err := v.Session.MarshalPEM()
		require.NoError(t, err)
		der, err := v.Session.MarshalBinary()
		require.NoError(t, err)
		for form, data := range map[string][]byte{"pem": text, "der": der} {
			path := filepath.Join(t.TempDir(), form)
			require.NoError(t, os.WriteFile(path, data, 0o600))
			files[version+" "+form] = path
		}
	}
	return files
}

func TestShow_ReadsPEMAndDER(t *testing.T) {
	t.Parallel()
	for name, path := range sessionFiles(t) {
		t.Run(name, func(t *testing.T) {
			version := "TLSv" + name[:3]
			r := sslsess(t, "show", path)
			requireOK(t, r)
			assert.Contains(t, r.stdout, version)
			assert.Contains(t, r.stdout, "localhost")

			data, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, r, sslsessReading(t, bytes.NewReader(data), "show", "-"))

			r = sslsess(t, "show", "-json", path)
			requireOK(t, r)
			var s shownSession
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &s))
			assert.Equal(t, version, s.Version)
			assert.Regexp(t, `^TLS_.*GCM`, s.Cipher)
			assert.Regexp(t, `^[0-9a-f]{64}$`, s.ID)
			assert.Equal(t, "localhost", s.ServerName)
			assert.True(t, s.Resumable)
			assert.Equal(t, s.Expires, s.Time.Add(7200e9))
		})
	}
}

func TestShow_WithholdsSecrets(t *testing.T) {
	t.Parallel()
	secret := regexp.MustCompile(`(?m)^ *(?:Master-Key|Resumption PSK): *([0-9A-F]{64,})$`)
	for name, path := range sessionFiles(t) {
		if !strings.HasSuffix(name, "pem") {
			continue
		}
		found := secret.FindStringSubmatch(openssl(t, "", "sess_id", "-in", path, "-noout", "-text"))
		require.NotNil(t, found, "openssl sess_id shows no secret")
		for _, args := range [][]string{{"show", path}, {"show", "-json", path}} {
			r := sslsess(t, args...)
			requireOK(t, r)
			assert.NotContains(t, strings.ToUpper(r.stdout), found[1])
		}
	}
}

func TestShow_RefusesWhatIsNoSession(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good, err := os.ReadFile(sessionFiles(t)["1.2 der"])
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"empty":       {},
		"garbage":     []byte("garbage"),
		"truncated":   good[:len(good)-1],
		"trailing":    append(good[:len(good):len(good)], 0),
		"large":       make([]byte, maxSession+1),
		"certificate": f.ca.PEM,
		"broken PEM":  []byte("-----BEGIN SSL SESSION PARAMETERS-----\nAAAA\n"),
	} {
		t.Run(name, func(t *testing.T) {
			r := sslsessReading(t, bytes.NewReader(data), "show", "-")
			requireFailure(t, r, 1, "sslsess show: -: ")
			assert.Empty(t, r.stdout)
		})
	}
	requireFailure(t, sslsess(t, "show", filepath.Join(t.TempDir(), "none")), 1, "no such file")
}
