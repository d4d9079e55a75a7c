"""The command `dim-jax classify`, for who has not installed it."""

from dim_jax.commands.classify import main

if __name__ == '__main__':
  main()
