package tlstest

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// SocketPair is both ends of a socket. No port is used up.
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
