module gobgen
go 1.21
