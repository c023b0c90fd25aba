package tests

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The example fleet serves pages without a password, so its ports are for the host that runs it.
func TestCompose_PublishesToThisHostOnly(t *testing.T) {
	text, err := os.ReadFile("../docker/compose.yml")
	require.NoError(t, err)
	lists := regexp.MustCompile(`ports: \[(.*?)\]`).FindAllSubmatch(text, -1)
	require.Len(t, lists, 5)
	for _, list := range lists {
		for _, port := range regexp.MustCompile(`[^", ]+`).FindAllString(string(list[1]), -1) {
			assert.Regexp(t, `^127\.0\.0\.1:\d+:\d+$`, port)
		}
	}
}

// Visitors of Grafana need no password, so they may look and change nothing.
func TestCompose_GrafanaHasNoAnonymousAdmin(t *testing.T) {
	text, err := os.ReadFile("../docker/compose.yml")
	require.NoError(t, err)
	assert.Contains(t, string(text), "GF_AUTH_ANONYMOUS_ORG_ROLE: Viewer,")
	assert.NotRegexp(t, `(?i)\b(Admin|Editor)\b|GF_SECURITY_ADMIN`, string(text))
}
