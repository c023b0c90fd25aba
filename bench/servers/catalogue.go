package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// server is one of the servers that are compared.
type server struct {
	name, title string
	program     string // of a Debian package; "": it is built here
	lacks       string // a row that does not exist for it
	// command writes the server's configuration and returns its command line.
	command func(in *instance) ([]string, error)
}

func (s server) String() string { return s.name }

// reference is the server that ratios are to.
const reference = "nginx"

var allServers = []server{
	{name: reference, title: "nginx, shared memory cache, no tickets", program: "nginx", command: nginx},
	{name: "haproxy", title: "HAProxy, its cache, no tickets", program: "haproxy", command: haproxy},
	{name: "httpd-shmcb", title: "httpd, event, shmcb, no tickets", program: "apache2", command: httpdShmcb},
	{name: "httpd-redis", title: "httpd, event, socache_redis, no tickets", program: "apache2", command: httpdRedis},
	{name: "crypto-tls", title: "net/http on crypto/tls (its 1.3 tickets are stateless)", lacks: "res12id", command: ours("crypto-tls")},
	{name: "libssl", title: "**net/http on libssl**, memstore", command: ours("libssl")},
	{name: "sslsess-memory", title: "**sslsess serve**, memory", command: sslsess(func(*instance) (string, error) { return "memory:", nil })},
	{name: "sslsess-sqlite", title: "**sslsess serve**, sqlite", command: sslsess(func(in *instance) (string, error) { return "sqlite:" + in.path("sessions.db"), nil })},
	{name: "sslsess-redis", title: "**sslsess serve**, redis", command: sslsess(func(in *instance) (string, error) {
		addr, err := in.startRedis()
		return "redis://" + addr + "/0", err
	})},
}

// ours are the servers in ours.go.
func ours(name string) func(*instance) ([]string, error) {
	return func(in *instance) ([]string, error) {
		return []string{in.site.self, "child", name, in.addr, in.site.cert, in.site.key}, nil
	}
}

func sslsess(storeURL func(*instance) (string, error)) func(*instance) ([]string, error) {
	return func(in *instance) ([]string, error) {
		url, err := storeURL(in)
		if err != nil {
			return nil, err
		}
		return []string{in.site.sslsess, "serve", "-listen", in.addr, "-cert", in.site.cert, "-key", in.site.key, "-store", url, "-keyring", in.site.keyring}, nil
	}
}

func nginx(in *instance) ([]string, error) {
	conf, err := in.write("nginx.conf", `
daemon off;
worker_processes %d;
pid %s;
error_log stderr;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {
		listen %s ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_session_tickets off;
		ssl_session_cache shared:sessions:64m;
		location / { default_type text/plain; return 200 "ok\n"; }
	}
}
`, in.cores, in.path("pid"), in.addr, in.site.cert, in.site.key)
	return []string{"nginx", "-p", in.dir, "-e", "stderr", "-c", conf}, err
}

func haproxy(in *instance) ([]string, error) {
	conf, err := in.write("haproxy.cfg", `
global
	nbthread %d
	maxconn 4096
	tune.ssl.cachesize 200000
defaults
	mode http
	timeout connect 10s
	timeout client 10s
	timeout server 10s
frontend tls
	bind %s ssl crt %s ssl-min-ver TLSv1.2 no-tls-tickets
	http-request return status 200 content-type text/plain string "ok\n"
`, in.cores, in.addr, in.site.both)
	return []string{"haproxy", "-db", "-f", conf}, err
}

func httpdShmcb(in *instance) ([]string, error) {
	return httpd(in, "shmcb", "shmcb:"+in.path("sessions")+"(67108864)")
}

func httpdRedis(in *instance) ([]string, error) {
	addr, err := in.startRedis()
	if err != nil {
		return nil, err
	}
	return httpd(in, "redis", "redis:"+addr)
}

// httpdModules are the folders where distributions keep the modules of httpd.
var httpdModules = []string{"/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/libexec/apache2"}

// httpd has as many processes as cores, and neither starts nor ends one later.
func httpd(in *instance, provider, cache string) ([]string, error) {
	modules := ""
	for _, dir := range httpdModules {
		if _, err := os.Stat(filepath.Join(dir, "mod_ssl.so")); err == nil {
			modules = dir
			break
		}
	}
	if modules == "" {
		return nil, fmt.Errorf("mod_ssl.so is in none of %q", httpdModules)
	}
	const threads = 128
	user := ""
	if os.Getuid() == 0 {
		user = "User www-data\nGroup www-data\n" // Debian always has them
	}
	conf, err := in.write("httpd.conf", user+`
ServerRoot %s
ServerName localhost
DefaultRuntimeDir %[1]s
PidFile %[1]s/pid
ErrorLog %[1]s/errors
Mutex pthread
LoadModule mpm_event_module %[2]s/mod_mpm_event.so
LoadModule authz_core_module %[2]s/mod_authz_core.so
LoadModule dir_module %[2]s/mod_dir.so
LoadModule ssl_module %[2]s/mod_ssl.so
LoadModule socache_%[3]s_module %[2]s/mod_socache_%[3]s.so
StartServers %[4]d
ServerLimit %[4]d
ThreadLimit %[5]d
ThreadsPerChild %[5]d
MaxRequestWorkers %[6]d
MinSpareThreads 1
MaxSpareThreads %[6]d
Listen %[7]s
DocumentRoot %[8]s
DirectoryIndex index.txt
SSLEngine on
SSLCertificateFile %[9]s
SSLCertificateKeyFile %[10]s
SSLSessionTickets off
SSLSessionCache %[11]s
`, in.dir, modules, provider, in.cores, threads, in.cores*threads, in.addr, in.site.documents, in.site.cert, in.site.key, cache)
	return []string{"apache2", "-D", "FOREGROUND", "-f", conf}, err
}

// redis is the program of Redis, or of Valkey.
func redis() (string, error) {
	path, err := lookPath("redis-server")
	if err != nil {
		return lookPath("valkey-server")
	}
	return path, nil
}

// startRedis starts a Redis for this server alone. Its CPU time counts as that of the server.
func (in *instance) startRedis() (addr string, err error) {
	program, err := redis()
	if err != nil {
		return "", err
	}
	addr, err = freeAddr()
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	return addr, in.start([]string{program, "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", in.dir}, addr)
}
