package tlstest

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// SocketPair returns both ends of a Unix socket, which takes no port.
func SocketPair() (client, server net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		var fileErr error
		ends[i], fileErr = net.FileConn(file) // has a descriptor of its own
		file.Close()
		err = errors.Join(err, fileErr)
	}
	return ends[0], ends[1], err
}

// TCPPair returns both ends of a loopback connection.
func TCPPair() (client, server net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = l.Accept(); err != nil {
		client.Close()
		return nil, nil, err
	}
	return client, server, nil
}
