package ownfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const stranger = 65534

// folderOf makes a folder with a file, and one with links.
func folderOf(t *testing.T) (file, links string) {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"files", "links"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	file = filepath.Join(dir, "files", "key")
	require.NoError(t, os.WriteFile(file, []byte("secret"), 0o600))
	return file, filepath.Join(dir, "links")
}

func needsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: only root can give files to another user")
	}
}

func refused(t *testing.T, path, says string) {
	t.Helper()
	_, _, err := Self().Read(path)
	require.ErrorContains(t, err, says)
	_, _, err = Self().Find(path)
	require.ErrorContains(t, err, says)
	text, err := Self().ReadSecret(path)
	require.Error(t, err)
	require.Empty(t, text)
}

func accepted(t *testing.T, path string) {
	t.Helper()
	text, err := Self().ReadSecret(path)
	require.NoError(t, err)
	require.Equal(t, "secret", string(text))
}

func TestRead_RefusesWhatOthersCanWrite(t *testing.T) {
	file, _ := folderOf(t)
	accepted(t, file)
	for _, mode := range []fs.FileMode{0o620, 0o602} {
		require.NoError(t, os.Chmod(file, mode))
		refused(t, file, "lets other users change it")
	}
	require.NoError(t, os.Chmod(file, 0o400))
	accepted(t, file)
	dir := filepath.Dir(file)
	for _, mode := range []fs.FileMode{0o770, 0o702, 0o777 | fs.ModeSticky} {
		require.NoError(t, os.Chmod(dir, mode))
		refused(t, file, dir+": mode")
		require.Error(t, Self().Folder(file))
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	accepted(t, file)
	require.NoError(t, Self().Folder(file))
}

func TestRead_RefusesFilesOfStrangers(t *testing.T) {
	needsRoot(t)
	file, _ := folderOf(t)
	require.NoError(t, os.Chown(file, stranger, 0))
	refused(t, file, "belongs to user 65534, and must belong to user 0 or root")
	require.NoError(t, os.Chown(file, 0, 0))
	require.NoError(t, os.Chown(filepath.Dir(file), stranger, 0))
	refused(t, file, "belongs to user 65534")
	require.Error(t, Self().Folder(file))
}

func TestRead_FollowsOwnLinks(t *testing.T) {
	file, links := folderOf(t)
	// As in a volume of Kubernetes: key is a link, and the folder that it leads through is one too.
	require.NoError(t, os.Symlink(filepath.Dir(file), filepath.Join(links, "..data")))
	link := filepath.Join(links, "key")
	require.NoError(t, os.Symlink("..data/key", link))
	require.NoError(t, os.Chmod(links, 0o777|fs.ModeSticky))
	accepted(t, link)
	found, _, err := Self().Find(link)
	require.NoError(t, err)
	want, err := filepath.EvalSymlinks(file)
	require.NoError(t, err)
	require.Equal(t, want, found)

	relative := filepath.Join(links, "relative")
	require.NoError(t, os.Symlink("../links/./key", relative))
	accepted(t, relative)

	require.NoError(t, os.Chmod(filepath.Dir(file), 0o777))
	refused(t, link, "lets other users change it")
	require.NoError(t, os.Chmod(filepath.Dir(file), 0o700))
	if os.Geteuid() == 0 {
		for _, name := range []string{"key", "..data"} {
			require.NoError(t, os.Lchown(filepath.Join(links, name), stranger, 0))
			refused(t, link, "symbolic link "+filepath.Join(links, name)+": belongs to user 65534")
			require.NoError(t, os.Lchown(filepath.Join(links, name), 0, 0))
		}
		accepted(t, link)
	}
}

func TestRead_RefusesOtherThanFiles(t *testing.T) {
	file, links := folderOf(t)
	refused(t, filepath.Dir(file), "not a regular file")
	require.NoError(t, os.Symlink("loop", filepath.Join(links, "loop")))
	refused(t, filepath.Join(links, "loop"), "too many symbolic links")
	require.NoError(t, os.Symlink("absent", filepath.Join(links, "dangling")))
	for _, absent := range []string{filepath.Join(links, "dangling"), filepath.Join(links, "absent"), filepath.Join(links, "absent", "x")} {
		_, _, err := Self().Read(absent)
		assert.ErrorIs(t, err, fs.ErrNotExist)
	}
	pipe := filepath.Join(links, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	refused(t, pipe, "not a regular file") // and does not wait for a writer
}

func TestSecret_IsItsOwnersAlone(t *testing.T) {
	file, _ := folderOf(t)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o610} {
		require.NoError(t, os.Chmod(file, mode))
		_, err := Self().ReadSecret(file)
		require.ErrorContains(t, err, "lets other users access it")
		_, _, err = Self().Read(file)
		require.NoError(t, err, "others may read what is no secret")
	}
}

// asStranger runs f as another user.
func asStranger(t *testing.T, f func()) {
	require.NoError(t, syscall.Setresuid(-1, stranger, -1))
	defer func() { require.NoError(t, syscall.Setresuid(-1, 0, -1)) }()
	f()
}

func TestSecret_GroupReadsAFileOfRoot(t *testing.T) {
	needsRoot(t)
	file, _ := folderOf(t)
	info := func(mode fs.FileMode) fs.FileInfo {
		require.NoError(t, os.Chmod(file, mode))
		info, err := os.Stat(file)
		require.NoError(t, err)
		return info
	}
	group, all := info(0o440), info(0o444)
	require.Error(t, Self().Secret(group))
	asStranger(t, func() {
		assert.NoError(t, Self().Secret(group))
		assert.Error(t, Self().Secret(all))
		assert.NoError(t, Self().owned("a file of root", group))
	})
	require.NoError(t, os.Chown(file, stranger, 0))
	group = info(0o440)
	asStranger(t, func() { assert.Error(t, Self().Secret(group)) })
}

func TestKeep_GivesAwayTheFile(t *testing.T) {
	needsRoot(t)
	file, links := folderOf(t)
	require.NoError(t, os.Chown(file, stranger, 7))
	info, err := os.Stat(file)
	require.NoError(t, err)
	f, err := os.Create(filepath.Join(links, "new"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, Keep(f, info))
	got, err := f.Stat()
	require.NoError(t, err)
	require.EqualValues(t, stranger, got.Sys().(*syscall.Stat_t).Uid)
	require.EqualValues(t, 7, got.Sys().(*syscall.Stat_t).Gid)
}

func TestOwner_CountsBesideRoot(t *testing.T) {
	needsRoot(t)
	file, _ := folderOf(t)
	for _, path := range []string{file, filepath.Dir(file)} {
		require.NoError(t, os.Chown(path, stranger, 0))
	}
	owner, err := Owner(file)
	require.NoError(t, err)
	require.Equal(t, User(stranger), owner)
	text, err := owner.ReadSecret(file)
	require.NoError(t, err)
	require.Equal(t, "secret", string(text))
	require.NoError(t, os.Chown(filepath.Dir(file), stranger-1, 0))
	_, _, err = owner.Find(file)
	require.ErrorContains(t, err, "belongs to user 65533, and must belong to user 65534 or root")
	_, err = Owner(file + "x")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
