package python

import "embed"

//go:embed mitogend_client/sitecustomize.py mitogend_client/__init__.py
var client embed.FS

// ClientFiles is what stands on the module path of programs that `mitogend master` starts: path and text. It is for
// this machine; children never see it.
func ClientFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	for from, to := range map[string]string{
		"mitogend_client/sitecustomize.py": "sitecustomize.py", "mitogend_client/__init__.py": "mitogend_client/__init__.py",
	} {
		data, err := client.ReadFile(from)
		if err != nil {
			return nil, err
		}
		files[to] = data
	}
	return files, nil
}
