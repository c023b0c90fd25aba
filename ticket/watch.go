package ticket

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// WatchRing is LoadRing for a file that changes: it looks every interval whether the file is another one, and then gives the
// ring its keys. A file that cannot be read, or is no ring, is reported to onError, which may be nil, once for each such
// file, and the ring keeps its keys. stop ends the watching and returns when it has ended.
func WatchRing(path string, interval time.Duration, onError func(error)) (r *Ring, stop func(), err error) {
	if interval <= 0 {
		return nil, nil, fmt.Errorf("ticket: key ring %s: a watching interval of %s", path, interval)
	}
	seen := stateOf(path) // before loading: a change in between is seen the next time
	if r, err = LoadRing(path); err != nil {
		return nil, nil, err
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := stateOf(path)
			if now == seen {
				continue
			}
			seen = now
			fresh, err := LoadRing(path)
			if err == nil {
				r.Replace(fresh)
			} else if onError != nil {
				onError(err)
			}
		}
	}()
	var once sync.Once
	return r, func() {
		once.Do(func() { close(done) })
		<-ended
	}, nil
}

// fileState tells one state of a file from another. Save gives the file another modification time, to the nanosecond.
type fileState struct {
	modified time.Time
	size     int64
	mode     os.FileMode
	err      string
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{err: err.Error()}
	}
	return fileState{modified: info.ModTime(), size: info.Size(), mode: info.Mode()}
}
