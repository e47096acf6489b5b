module sipbox-test-programs

go 1.19
