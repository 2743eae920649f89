module github.com/coppice-lm/coppice

go 1.26
