// Package inventory reads lists of hosts and tells which chain of hops each of them means.
//
// A source is a YAML file, an INI file in Ansible's form, a program that prints Ansible's JSON, a directory of those,
// or a list of names with commas. Files group_vars/NAME and host_vars/NAME beside a source add variables. The format
// of a file is told by its extension (.yaml, .yml, .json; .ini), by its execute permission, and otherwise by its
// first line.
//
// # What counts
//
// A host's variables come from, later ones winning: the groups of all sources (all first, then by depth, then by
// ansible_group_priority, then by name), their group_vars, the host's own lines, its host_vars. A variable replaces
// another of its name as a whole; nothing is merged.
//
// # Templates
//
// There is no Jinja here. A value may refer to other variables of the host ("{{ name }}") and to the environment
// ("{{ lookup('env', 'NAME') }}"); any other template is an error where it is used, and only there.
//
// # Vault
//
// Files, and texts marked !vault, that ansible-vault has encrypted (formats 1.1 and 1.2, AES256) are decrypted when
// they are needed, by the passwords in Found.Vault. A file of groups is needed at once, one of group_vars or
// host_vars when a host of it is used, a text when its variable is.
//
// # Errors
//
// Every error is one line, "inventory: FILE:LINE: ...". No error, and no String method, shows a password, or what was
// encrypted.
package inventory
