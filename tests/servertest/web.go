package servertest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Program starts a program of a Debian package, with files as its descriptors from 3 on. It ends with the test.
func Program(t testing.TB, files []*os.File, program string, args ...string) (stdin io.Writer, stdout io.Reader) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path = filepath.Join("/usr/sbin", program) // which is often not in PATH
	}
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = files
	stdin, err = cmd.StdinPipe()
	check(t, err)
	stdout, err = cmd.StdoutPipe()
	check(t, err)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s is missing: install Debian's package: %v", program, err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // the master of nginx then ends its workers
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", program, said.String())
		}
	})
	return stdin, stdout
}

// Nginx starts nginx with TLS 1.2 and 1.3, which answers each request. The settings go into its server block.
func Nginx(t testing.TB, certFile, keyFile string, settings ...string) (addr string) {
	t.Helper()
	dir, addr, user := t.TempDir(), FreeAddr(t), ""
	if os.Getuid() == 0 {
		user = "user root;" // other users cannot read the directory
	}
	conf := write(t, dir, "nginx.conf", fmt.Sprintf(`
%s
daemon off;
worker_processes 2;
pid pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {
		listen %s ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		%s
		location / { return 200 "hello"; }
	}
}
`, user, addr, certFile, keyFile, strings.Join(settings, " ")))
	_, stdout := Program(t, nil, "nginx", "-p", dir, "-e", "stderr", "-c", conf)
	go io.Copy(io.Discard, stdout)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if nc, err := net.Dial("tcp", addr); err == nil {
			nc.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatal("nginx does not listen")
		}
	}
}

// HAProxy starts HAProxy with TLS 1.2 and 1.3, which answers each request. The settings go into its bind line.
func HAProxy(t testing.TB, certFile, keyFile string, settings ...string) (addr string) {
	t.Helper()
	dir, pem := t.TempDir(), ""
	l, err := net.Listen("tcp", "127.0.0.1:0") // which HAProxy inherits, so that a connection waits for its start
	check(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	check(t, err)
	defer socket.Close()
	for _, file := range []string{certFile, keyFile} {
		text, err := os.ReadFile(file)
		check(t, err)
		pem += string(text)
	}
	conf := write(t, dir, "haproxy.cfg", fmt.Sprintf(`
global
	maxconn 1000
defaults
	mode http
	timeout client 60s
frontend hello
	bind fd@3 ssl crt %s ssl-min-ver TLSv1.2 %s
	http-request return status 200
`, write(t, dir, "server.pem", pem), strings.Join(settings, " ")))
	_, stdout := Program(t, []*os.File{socket}, "haproxy", "-db", "-f", conf)
	go io.Copy(io.Discard, stdout)
	return l.Addr().String()
}

func write(t testing.TB, dir, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(dir, name)
	check(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
