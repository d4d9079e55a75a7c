"""The command `dim-jax represent`, for who has not installed it."""

from dim_jax.commands.represent import main

if __name__ == '__main__':
  main()
