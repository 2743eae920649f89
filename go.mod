module github.com/coppice-lm/coppice

go 1.26

require (
	github.com/mmcloughlin/avo v0.5.0 // indirect
	golang.org/x/sys v0.50.0
)
