"""The command `dim-jax list`, for who has not installed it."""

from dim_jax.commands.list import main

if __name__ == '__main__':
  main()
