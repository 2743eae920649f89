package checkpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// repoName is what the hub accepts as owner/name.
var repoName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$`)

// findInCache resolves owner/name[@revision] to a snapshot directory in the local
// Hugging Face cache. Nothing is fetched. The cache is HF_HUB_CACHE, else
// HF_HOME/hub, else ~/.cache/huggingface/hub (XDG_CACHE_HOME honoured), as
// huggingface_hub has it: models--owner--name/refs/REVISION holds a commit,
// snapshots/COMMIT the files.
func findInCache(model string) (string, error) {
	repo, revision, hasRevision := strings.Cut(model, "@")
	if !repoName.MatchString(repo) || strings.Contains(repo, "..") || strings.Contains(revision, "..") || hasRevision && revision == "" {
		return "", fmt.Errorf("%s: no such file or directory, and not a hub name owner/name[@revision]", model)
	}
	if !hasRevision {
		revision = "main"
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "models--"+strings.ReplaceAll(repo, "/", "--"))
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("%s: no such directory, and not in the Hugging Face cache %s; download it first (for example `hf download %s`) or set HF_HOME or HF_HUB_CACHE", model, cache, repo)
	}
	commit := revision
	if b, err := readSmall(filepath.Join(dir, "refs", filepath.FromSlash(revision))); err == nil {
		commit = strings.TrimSpace(string(b))
	}
	snapshot := filepath.Join(dir, "snapshots", commit)
	if filepath.Dir(snapshot) != filepath.Join(dir, "snapshots") {
		return "", fmt.Errorf("%s: revision %q does not name a snapshot", model, revision)
	}
	if st, err := os.Stat(snapshot); err != nil || !st.IsDir() {
		return "", fmt.Errorf("%s: revision %q is not in the Hugging Face cache %s; download it first", model, revision, dir)
	}
	return snapshot, nil
}

func cacheDir() (string, error) {
	if d := os.Getenv("HF_HUB_CACHE"); d != "" {
		return d, nil
	}
	if d := os.Getenv("HF_HOME"); d != "" {
		return filepath.Join(d, "hub"), nil
	}
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "huggingface", "hub"), nil
}
