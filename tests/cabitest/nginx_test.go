package cabitest_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/cabitest"
	"github.com/libssl-go/libssl/tests/servertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func findNginx() string {
	if program, err := exec.LookPath("nginx"); err == nil {
		return program
	}
	return "/usr/sbin/nginx" // /usr/sbin is often not in PATH
}

// foreign reports whether nginx, which uses the OpenSSL of the system, uses another OpenSSL than this test. The preloaded
// object then only prints a message.
func foreign(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command(findNginx(), "-V").CombinedOutput()
	require.NoError(t, err, "nginx is missing: install Debian's nginx-light")
	return !strings.Contains(string(out), libssl.Version())
}

type instance struct{ addr, log string }

// nginx starts an instance, a master and two workers, with env added to its environment.
func nginx(t *testing.T, cert, key string, env []string) instance {
	t.Helper()
	program := findNginx()
	dir := t.TempDir()
	n := instance{servertest.FreeAddr(t), filepath.Join(dir, "error.log")} // nginx redirects its stderr there, too
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // otherwise the workers could not read the store of the test
	}
	conf := fmt.Sprintf(`
%s
daemon off;
worker_processes 2;
pid %s/pid;
error_log %s;
events {}
http {
	access_log off;
	client_body_temp_path %s/body; proxy_temp_path %s/proxy; fastcgi_temp_path %s/fcgi; uwsgi_temp_path %s/uwsgi; scgi_temp_path %s/scgi;
	server {
		listen %s ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_session_tickets off;
		location / { default_type text/plain; return 200 "reused $ssl_session_reused\n"; }
	}
}
`, user, dir, n.log, dir, dir, dir, dir, dir, n.addr, cert, key)
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	cmd := exec.Command(program, "-p", dir, "-e", n.log, "-c", file)
	cmd.Env = append(os.Environ(), env...)
	out, err := os.Create(n.log)
	require.NoError(t, err)
	defer out.Close()
	cmd.Stderr = out // for messages before nginx opens its log
	require.NoError(t, cmd.Start(), "nginx is missing: install Debian's nginx-light")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // on which the master also ends its workers
		<-ended
	})
	if !assert.Eventually(t, func() bool {
		nc, err := net.Dial("tcp", n.addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	}, 20*time.Second, 5*time.Millisecond) {
		t.Fatal(n.said(t))
	}
	return n
}

// said returns the error log.
func (n instance) said(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(n.log)
	require.NoError(t, err)
	return string(log)
}

func get(t *testing.T, client *libssl.Context, n instance, offer *libssl.Session) (string, bool, *libssl.Session) {
	t.Helper()
	return cabitest.Visit(t, client, n.addr, "GET / HTTP/1.0\r\n\r\n", offer)
}
