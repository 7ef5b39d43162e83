print('a file of a package, as a program')
